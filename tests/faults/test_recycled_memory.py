"""Memory of large contents is written again, but never while somebody reads it; and it is not hoarded."""

from __future__ import annotations

import fcntl
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import blocks
import pytest
from faults import HANG_SECONDS, ended, variant, workers
from gates import Keeper

from multitask import Pool

pytestmark = pytest.mark.parametrize("name", ["native-fork", "native-forkserver"])


@pytest.fixture
def pool(name: str) -> Iterator[Pool]:
    with variant(name) as make, ended(make(1)) as made:
        yield made


def test_memory_that_nobody_reads_is_written_again(pool: Pool) -> None:
    there, back = set(), set()
    for number in range(20):
        there.add(pool.apply(blocks.inode_of, (blocks.full_of(number),)))
        back.add(pool.apply(blocks.full_of, (number,)).inode())
    assert len(there) < 20
    assert len(back) < 20


def test_a_result_that_is_kept_never_changes(pool: Pool) -> None:
    kept = {}
    for number in range(16):
        kept[number] = pool.apply(blocks.full_of, (number,))
        if number % 3 == 2:
            del kept[number - 1]  # its memory may be written again, that of its neighbours may not
    assert [number for number, block in kept.items() if not block.holds(number)] == []


def test_an_argument_that_is_kept_never_changes(pool: Pool) -> None:
    for number in range(12):
        pool.apply(blocks.keep, (blocks.full_of(number),))
        assert pool.apply(blocks.byte_of, (blocks.full_of(100 + number),)) == 100 + number
    assert pool.apply(blocks.check_kept, (0,)) == []


def test_what_the_caller_writes_into_a_result_stays_with_the_caller(pool: Pool) -> None:
    first = pool.apply(blocks.full_of, (1,))
    first.scribble()
    assert pool.apply(blocks.full_of, (2,)).holds(2)
    assert first.view[0] == first.view[-1] == 0xFF


def test_a_forked_child_goes_on_reading_what_its_parent_has_forgotten(pool: Pool, tmp_path: Path) -> None:
    gate = Keeper(tmp_path / "gate")
    verdict = tmp_path / "verdict"
    os.mkfifo(verdict)
    try:
        pool.apply(blocks.hand_to_a_child, (blocks.full_of(1), 1, gate, str(verdict)))
        gate.wait_arrived()
        for number in range(2, 10):
            assert pool.apply(blocks.byte_of, (blocks.full_of(number),)) == number
        gate.release()
        assert verdict.read_text() == "intact"
    finally:
        gate.close()


@pytest.mark.parametrize("how", ["raised", "killed"])
def test_a_retry_gets_the_argument_as_it_was(pool: Pool, tmp_path: Path, how: str) -> None:
    trace = str(tmp_path / "tried")
    tried = pool.options(retries=1).submit(blocks.fail_once, blocks.full_of(1), 1, trace, how)
    others = [pool.submit(blocks.byte_of, blocks.full_of(number)) for number in range(2, 10)]
    assert tried.result(HANG_SECONDS) is True
    assert [task.result(HANG_SECONDS) for task in others] == list(range(2, 10))


def test_memory_goes_back_when_a_pool_is_idle(pool: Pool) -> None:
    for number in range(3):
        block = pool.apply(blocks.full_of, (number,))
        assert pool.apply(blocks.byte_of, (block,)) == number
    del block
    (worker,) = workers(pool)
    end = time.monotonic() + 20  # it takes one second
    while (left := blocks.segments("self") + blocks.segments(worker)) and time.monotonic() < end:
        time.sleep(0.02)
    assert left == []
    assert pool.apply(blocks.full_of, (7,)).holds(7)


def test_memory_goes_back_when_the_pool_ends(name: str) -> None:
    with variant(name) as make:
        before = blocks.segments("self")
        with ended(make(1)) as pool:
            for number in range(3):
                assert pool.apply(blocks.byte_of, (blocks.full_of(number),)) == number
        assert blocks.segments("self") == before


def test_a_forked_worker_does_not_hold_what_its_pool_keeps(name: str) -> None:
    with variant(name) as make, ended(make(1, maxtasksperchild=1)) as pool:
        for number in range(3):
            assert pool.apply(blocks.byte_of, (blocks.full_of(number),)) == number
            assert pool.apply(blocks.segments, ("self",)) == []


def test_without_a_descriptor_to_spare_a_content_is_sealed_and_arrives(pool: Pool, tmp_path: Path) -> None:
    gate = Keeper(tmp_path / "gate")
    assert pool.apply(blocks.byte_of, (blocks.full_of(1),)) == 1
    busy = pool.submit(gate.hold)
    gate.wait_arrived()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))  # one for the segment, none for its reader
        sent = pool.submit(len, bytes(3 * blocks.SIZE))  # nothing on the shelf fits this
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        assert fcntl.fcntl(lowest, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    finally:
        gate.release()
        assert sent.result(HANG_SECONDS) == 3 * blocks.SIZE
        busy.result(HANG_SECONDS)
        gate.close()
    assert pool.apply(blocks.byte_of, (blocks.full_of(2),)) == 2
