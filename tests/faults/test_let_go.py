"""A task that is settled is let go, and what was lent or kept for it even if somebody keeps the task."""

from __future__ import annotations

import gc
import os
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest
from faults import ended, variant, wait_until
from gates import Gate, Keeper

from multitask import Pool, _native, share
from multitask.errors import PoolClosed

CORES = ["native-forkserver", "pipe-forkserver"]  # what is forked from here has what is shared here


def take(*_: object) -> None:
    """The calls here are given something and do nothing with it."""


def raise_with(*_: object) -> None:
    raise ValueError


def die_with(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def call(function: Callable[[], object]) -> object:
    return function()


def closure_of(array: Any) -> Callable[[], object]:
    return lambda: array.sum()


class Lent:
    """An array that is shared with a task: is there still a descriptor of it in this process?"""

    def __init__(self) -> None:
        self.array: Any = share(numpy.ones(100_000))
        self.place = place(os.fstat(self.array._memory.fd))

    def drop(self) -> None:
        self.array = None

    def gone(self) -> bool:
        gc.collect()
        return self.place not in map(place, open_files())


def place(status: os.stat_result) -> tuple[int, int]:
    """An inode's number alone is another file's on another device."""
    return status.st_dev, status.st_ino


def open_files() -> Iterator[os.stat_result]:
    for fd in os.listdir("/proc/self/fd"):
        try:
            yield os.stat(f"/proc/self/fd/{fd}")
        except OSError:
            pass  # it was the one that listed


def no_task_is_left(tasks: list[weakref.ref[Any]]) -> bool:
    gc.collect()
    return not any(task() for task in tasks)


@contextmanager
def keeper(folder: Path) -> Iterator[Keeper]:
    gate = Keeper(folder)
    try:
        yield gate
    finally:
        gate.close()


# --- ends without a beginning ----------------------------------------------------------------------------------------


def cancelled_in_line(pool: Pool, gate: Keeper, lent: Lent) -> Any:
    """Behind more than a worker is given at once."""
    for _ in range(20):
        pool.submit(gate.hold)
    task = pool.submit(take, lent.array)
    assert task.cancel()
    return task


def cancelled_in_lane(pool: Any, gate: Keeper, lent: Lent) -> Any:
    """Right behind the one that runs."""
    pool.submit(gate.hold)
    gate.wait_arrived()
    task = pool.submit(take, lent.array)
    assert task.cancel()
    return task


def cancelled_before_any_worker_was_ready(pool: Pool, gate: Keeper, lent: Lent) -> Any:
    pool.submit(gate.hold)
    task = pool.submit(take, lent.array)
    assert task.cancel()
    return task


def cancelled_with_an_hour_to_go(pool: Pool, gate: Keeper, lent: Lent) -> Any:
    return cancelled_in_lane(pool.options(timeout=3600), gate, lent)


def cancelled_after_its_worker_was_lost(pool: Pool, gate: Keeper, lent: Lent) -> Any:
    """It goes back into the line, and the next worker is not ready."""
    running = pool.submit(gate.hold)
    gate.wait_arrived()
    task = pool.submit(take, lent.array)
    os.mkdir(f"{gate.folder}/closed")
    running.cancel()
    assert task.cancel()
    os.rmdir(f"{gate.folder}/closed")
    return task


def terminated(pool: Pool, gate: Keeper, lent: Lent) -> Any:
    for _ in range(20):
        pool.submit(gate.hold)
    task = pool.submit(take, lent.array)
    gate.wait_arrived()
    pool.terminate()
    return task


def terminated_in_lane(pool: Pool, gate: Keeper, lent: Lent) -> Any:
    pool.submit(gate.hold)
    gate.wait_arrived()
    task = pool.submit(take, lent.array)
    pool.terminate()
    return task


def _pass(folder: str) -> None:
    while os.path.exists(f"{folder}/closed"):
        time.sleep(0.01)


ENDS = [
    cancelled_in_line,
    cancelled_in_lane,
    cancelled_before_any_worker_was_ready,
    cancelled_with_an_hour_to_go,
    cancelled_after_its_worker_was_lost,
    terminated,
    terminated_in_lane,
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("policy", ["fifo", "priority"])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("core", CORES)
def test_a_task_that_ended_while_it_waited_is_let_go(tmp_path: Path, core: str, end: Any, policy: str) -> None:
    lent = Lent()
    with variant(core) as make, keeper(tmp_path / "gate") as gate:
        with ended(make(1, policy=policy, initializer=_pass, initargs=(gate.folder,))) as pool:
            task = end(pool, gate, lent)
            wait_until(task.cancelled)
            lent.drop()
            wait_until(lent.gone, 10.0)  # though somebody has the task
            known = weakref.ref(task)
            del task
            gate.release(20)
            pool.close()
            pool.join()  # those before it have run
    wait_until(lambda: no_task_is_left([known]), 10.0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("core", CORES)
def test_what_waits_when_the_pool_breaks_is_let_go(core: str) -> None:
    lent = Lent()
    known = []
    with variant(core) as make, ended(make(1, initializer=die_with)) as pool:
        try:
            for _ in range(5):
                known.append(weakref.ref(pool.submit(take, lent.array)))
        except PoolClosed:
            pass  # broken already
        lent.drop()
        wait_until(lent.gone, 30.0)
    assert known
    del pool
    wait_until(lambda: no_task_is_left(known), 10.0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("policy", ["fifo", "priority"])
@pytest.mark.skipif(not _native.available, reason=_native.why_not or "native")
def test_a_long_line_lets_go_of_the_cancelled_while_others_wait(tmp_path: Path, policy: str) -> None:
    """No more of them stay than tasks wait, and those that wait keep their order."""
    with keeper(tmp_path / "gate") as gate, ended(Pool(1, policy=policy)) as pool:
        pool.submit(gate.hold)
        gate.wait_arrived()
        diary = str(tmp_path / "diary")
        tasks = [pool.options(priority=-number % 7).submit(note, diary, number) for number in range(2000)]
        wanted = [number for number in range(2000) if number % 10 == 0]
        for number, task in enumerate(tasks):
            assert number % 10 == 0 or task.cancel()
        known = [weakref.ref(task) for number, task in enumerate(tasks) if number % 10]
        waits = tasks[::10]
        del tasks, task
        gc.collect()
        assert sum(task() is not None for task in known) <= len(waits)
        gate.release()
        for task in waits:
            task.result()
        if policy == "priority":
            wanted.sort(key=lambda number: number % 7)
        written = [int(line) for line in Path(diary).read_text().split()]
        assert written == wanted if policy == "fifo" else sorted(written) == sorted(wanted)
        assert no_task_is_left(known)


def note(path: str, number: int) -> None:
    with open(path, "a") as file:
        file.write(f"{number}\n")


# --- ends of any kind ------------------------------------------------------------------------------------------------


def late(pool: Pool, gate: Gate, array: Any) -> Any:
    return pool.options(timeout=0.1).submit(hold_with, gate, array)


def stopped(pool: Pool, gate: Keeper, array: Any) -> Any:
    task = pool.submit(hold_with, gate, array)
    gate.wait_arrived()
    task.cancel()
    return task


def hold_with(gate: Gate, array: Any) -> None:
    gate.hold()


WAYS: dict[str, Any] = {
    "returned": lambda pool, gate, array: pool.submit(take, array),
    "raised": lambda pool, gate, array: pool.submit(raise_with, array),
    "raised-again": lambda pool, gate, array: pool.options(retries=1).submit(raise_with, array),
    "killed": lambda pool, gate, array: pool.submit(die_with, array),
    "killed-again": lambda pool, gate, array: pool.options(retries=1).submit(die_with, array),
    "late": late,
    "stopped": stopped,
    "in-a-map": lambda pool, gate, array: pool.map_async(take, [array] * 3),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("core", CORES)
def test_what_was_lent_to_a_task_is_let_go_when_it_is_settled(tmp_path: Path, core: str, way: str) -> None:
    """The task is kept, and nobody has asked for its outcome: a failed one is kept by its pool, too."""
    lent = Lent()
    with variant(core) as make, keeper(tmp_path / "gate") as gate, ended(make(1)) as pool:
        task = WAYS[way](pool, gate, lent.array)
        lent.drop()
        wait_until(task.done)
        wait_until(lent.gone, 10.0)
        task._asked = True  # no report of it


@pytest.mark.timeout(60)
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("way", [call, raise_with, die_with])
def test_what_came_by_value_is_let_go_when_the_task_is_settled(core: str, way: Any) -> None:
    with variant(core) as make, ended(make(1)) as pool:
        dead = pool._engine.core.encoder.definitions.dead  # type: ignore[union-attr]
        function = closure_of(numpy.ones(1_000_000))
        task = pool.submit(way, function)
        task.wait()
        task._asked = True
        number = pool._engine.core.encoder.definitions.by_object[id(function)].number  # type: ignore[union-attr]
        del function

        def is_dead() -> bool:
            gc.collect()
            pool._engine.core.encoder.definitions.sweep()  # type: ignore[union-attr]
            return number in dead

        wait_until(is_dead, 10.0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("core", [*CORES, "thread"])
def test_of_many_that_failed_none_is_held_that_was_asked_for(core: str) -> None:
    with variant(core.replace("thread", CORES[0])) as make:
        with ended(Pool(2, kind="thread") if core == "thread" else make(2)) as pool:
            unasked = [pool.submit(raise_with) for _ in range(300)]
            tasks = [pool.submit(raise_with) for _ in range(300)]
            known = []
            while tasks:
                task = tasks.pop()
                assert isinstance(task.exception(), ValueError)
                known.append(weakref.ref(task))
            del task
            wait_until(lambda: no_task_is_left(known), 10.0)
            wait_until(lambda: all(task.done() for task in unasked))
            assert all(task in pool._engine.core.failures for task in unasked)  # type: ignore[union-attr]
            assert {type(task.exception()) for task in unasked} == {ValueError}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("core", CORES)
def test_a_clock_that_runs_on_does_not_hold_the_result(core: str) -> None:
    with variant(core) as make, ended(make(1)) as pool:
        task = pool.options(timeout=3600).submit(take)
        task.result()
        known = weakref.ref(task)
        del task
        wait_until(lambda: no_task_is_left([known]), 10.0)
