"""cancel() of waiting and of running tasks."""

from __future__ import annotations

import time

import pytest
import work

import multitask


@pytest.mark.workers
def test_a_cancelled_task_never_starts(one, gate, tmp_path):
    mark = tmp_path / "mark"
    blocker = one.submit(gate.hold)
    gate.wait_arrived()  # the only worker is busy now
    queued = [one.submit(work.append_line, mark, name) for name in "abc"]
    assert queued[1].cancel()
    assert queued[1].cancelled() and queued[1].done() and not queued[1].running()
    gate.release()
    blocker.result()
    queued[0].result()
    queued[2].result()
    assert work.lines(mark) == ["a", "c"]
    for ask in (queued[1].result, queued[1].get, queued[1].exception):
        with pytest.raises(multitask.CancelledError):
            ask()


@pytest.mark.processes
def test_cancelling_a_running_task_frees_its_worker_in_half_a_second(one, gate):
    one.apply(work.add_one, (1,))
    running = one.submit(gate.hold)
    gate.wait_arrived()
    assert running.running()
    start = time.monotonic()
    assert running.cancel()
    assert running.cancelled() and not running.running()
    behind = one.submit(work.add_one, 1)
    with pytest.raises(multitask.CancelledError):
        running.result()
    freed = time.monotonic() - start
    assert behind.result() == 2
    assert freed < 0.5


def test_a_running_task_of_a_thread_cannot_be_cancelled(tmp_path, gate):
    with multitask.Pool(1, kind="thread") as pool:
        task = pool.submit(gate.hold, "through")
        gate.wait_arrived()
        assert not task.cancel()
        assert task.running() and not task.cancelled()
        gate.release()
        assert task.result() == "through"


def test_a_finished_task_cannot_be_cancelled(pool):
    task = pool.submit(work.add_one, 1)
    assert task.result() == 2
    assert not task.cancel()
    assert not task.cancelled()
    assert task.result() == 2


@pytest.mark.workers
def test_cancelling_twice_is_as_cancelling_once(one, gate):
    one.submit(gate.hold)
    gate.wait_arrived()
    task = one.submit(work.add_one, 1)
    assert task.cancel() and task.cancel()
    gate.release()


@pytest.mark.processes
def test_a_running_map_can_be_cancelled(pool, gate):
    task = pool.map_async(gate.hold, range(2), chunksize=1)
    gate.wait_arrived(2)
    assert task.running()
    assert task.cancel()
    with pytest.raises(multitask.CancelledError):
        task.get()
    assert task.cancelled()
    assert pool.map(work.add_one, [1]) == [2]
