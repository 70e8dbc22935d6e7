"""G3: tasks that never end are killed at their timeout, with all that they started; nobody else notices."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from fault_work import Diary, add_one, never_first_time, never_in_c, record, run_or_never, stop_self
from faults import FORKING, VARIANTS, alive, ended, ready_workers, stopped, variant, wait_until

from multitask.errors import TaskTimeout

TIMEOUT_SECONDS = 1.0


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", VARIANTS)
def test_of_100_tasks_3_never_end(tmp_path: Path, name: str) -> None:
    """One of the three has started a program, one a child that left the process group."""
    diary = Diary(str(tmp_path / "diary"))
    with variant(name) as make, ended(make(2)) as pool:
        begun = time.monotonic()
        limited = pool.options(timeout=TIMEOUT_SECONDS)
        tasks = [limited.submit(run_or_never, diary.path, number) for number in range(100)]
        errors = {number: task.exception(60) for number, task in enumerate(tasks)}
        took = time.monotonic() - begun
        late = {number for number, error in errors.items() if isinstance(error, TaskTimeout)}
        assert late == {10, 50, 90}, errors
        assert [error for number, error in errors.items() if number not in late] == [None] * 97
        pids = [int(line[1]) for line in diary.lines() if int(line[0]) in late]
        assert len(pids) == 5, "three workers, a program, and a process of its own session"
        gone = wait_until(lambda: not any(map(alive, pids)), 2.0)
        assert pool._engine._supervisor._staff.strays == []  # type: ignore[union-attr]
        assert pool.map(add_one, range(10)) == list(range(1, 11)), "the pool is usable"
    runs = [int(line[0]) for line in diary.lines() if int(line[0]) not in late]
    assert sorted(runs) == sorted(set(range(100)) - late), "each of the others ran once"
    print(f"\n{name}: 97 results and 3 TaskTimeout in {took:.2f} s; all processes gone {gone:.3f} s later")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_stopped_worker_is_killed_at_its_timeout(tmp_path: Path, name: str) -> None:
    diary = Diary(str(tmp_path / "diary"))
    with variant(name) as make, ended(make(1)) as pool:
        begun = time.monotonic()
        task = pool.options(timeout=TIMEOUT_SECONDS).submit(stop_self, diary.path, 0)
        behind = pool.submit(record, diary.path, 1)
        assert isinstance(task.exception(30), TaskTimeout)
        settled = time.monotonic()
        late = settled - float(diary.lines()[0][2]) - TIMEOUT_SECONDS
        assert behind.result(30) == 1
        assert not alive(int(diary.lines()[0][1]))
    print(f"\n{name}: settled {late:.3f} s after its time was over")
    assert settled - begun >= TIMEOUT_SECONDS and late < 2.0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_a_task_that_keeps_the_gil_is_killed_at_its_timeout(tmp_path: Path, name: str) -> None:
    with variant(name) as make, ended(make(1)) as pool:
        begun = time.monotonic()
        task = pool.options(timeout=0.3).submit(never_in_c, os.devnull, 0)
        assert isinstance(task.exception(30), TaskTimeout)
        assert time.monotonic() - begun < 5.0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_the_clock_starts_with_the_call_and_not_with_the_submit(tmp_path: Path, name: str) -> None:
    """20 tasks of 0.1 s in one worker, each allowed 1 s: the last waits longer than that and is fine."""
    with variant(name) as make, ended(make(1)) as pool:
        tasks = [pool.options(timeout=TIMEOUT_SECONDS).submit(time.sleep, 0.1) for _ in range(20)]
        assert [task.exception(30) for task in tasks] == [None] * 20


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_a_timed_out_task_with_retries_is_tried_again(tmp_path: Path, name: str) -> None:
    diary = Diary(str(tmp_path / "diary"))
    with variant(name) as make, ended(make(1)) as pool:
        task = pool.options(timeout=0.5, retries=1).submit(never_first_time, diary.path, 3)
        assert task.result(30) == 3
    assert len(diary.lines()) == 2


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_every_try_has_the_timeout(tmp_path: Path, name: str) -> None:
    diary = Diary(str(tmp_path / "diary"))
    with variant(name) as make, ended(make(1)) as pool:
        task = pool.options(timeout=0.3, retries=2).submit(stop_self, diary.path, 3)
        assert isinstance(task.exception(30), TaskTimeout)
        assert pool.submit(add_one, 1).result(30) == 2
    assert len(diary.lines()) == 3


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_the_item_of_a_chunk_that_never_ends_takes_its_chunk_along(tmp_path: Path, name: str) -> None:
    diary = Diary(str(tmp_path / "diary"))
    with variant(name) as make, ended(make(2)) as pool:
        pairs = [(diary.path, number) for number in range(20)]  # number 10 never ends
        error = pool.options(timeout=0.5).starmap_async(run_or_never, pairs, chunksize=5).exception(30)
        assert isinstance(error, TaskTimeout)
        assert pool.map(add_one, range(3)) == [1, 2, 3]
    assert sorted(int(line[0]) for line in diary.lines()) == [*range(11), *range(15, 20)]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_a_task_handed_to_a_stopped_worker_is_no_hang(tmp_path: Path, name: str) -> None:
    """An idle worker is stopped from outside: a task with a timeout that it was given must end."""
    with variant(name) as make, ended(make(1)) as pool:
        (worker,) = ready_workers(pool, 1)
        os.kill(worker, signal.SIGSTOP)
        wait_until(lambda: stopped(worker))
        task = pool.options(timeout=0.5).submit(add_one, 1)
        error = task.exception(20)
        assert error is None or isinstance(error, TaskTimeout)
        assert pool.submit(add_one, 1).result(20) == 2
