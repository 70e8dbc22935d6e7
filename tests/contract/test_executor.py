"""Executor: concurrent.futures' semantics, and kill()."""

from __future__ import annotations

import multiprocessing

import pytest
import work

import multitask


@pytest.fixture
def executor(variant):
    with variant.executor(2) as executor:
        yield executor


def test_submit_gives_a_future(executor):
    assert executor.submit(work.add_one, 1).result() == 2
    assert executor.submit(work.keywords, fn=1, self=2).result() == ((), {"fn": 1, "self": 2})


@pytest.mark.parametrize(
    "options", [{}, {"chunksize": 3}, {"buffersize": 1}, {"buffersize": 4, "chunksize": 2}], ids=repr
)
def test_map_yields_in_order_and_ends_with_the_shortest(executor, options):
    assert list(executor.map(pow, range(10), [2] * 7, **options)) == [i**2 for i in range(7)]
    assert list(executor.map(work.add_one, [], **options)) == []


def test_map_raises_the_error_at_its_place(executor):
    results = executor.map(work.raise_if_odd, [0, 2, 3, 4])
    assert [next(results), next(results)] == [0, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)


def test_map_with_buffersize_pulls_only_so_many_ahead(executor):
    pulled = []
    results = executor.map(work.add_one, (pulled.append(i) or i for i in range(100)), buffersize=5)
    assert pulled == list(range(5))
    assert next(results) == 1
    assert next(results) == 2
    assert len(pulled) <= 7
    results.close()


@pytest.mark.workers
def test_map_raises_timeout_error_counted_from_its_call(executor, gate):
    results = executor.map(gate.hold, [1, 2], timeout=0)
    with pytest.raises(TimeoutError):
        next(results)
    gate.release(2)
    executor.shutdown()  # whoever is on the way to the gate still finds it


@pytest.mark.parametrize("wrong", [{"chunksize": 0}, {"buffersize": 0}], ids=repr)
def test_map_refuses_wrong_sizes(executor, wrong):
    with pytest.raises(ValueError):
        executor.map(work.add_one, [1], **wrong)


def test_submit_after_shutdown_raises_runtime_error(variant):
    executor = variant.executor(1)
    task = executor.submit(work.add_one, 1)
    executor.shutdown()
    assert task.result() == 2
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(work.add_one, 1)
    executor.shutdown()


@pytest.mark.workers
def test_cancel_is_false_while_running_as_in_the_standard_library(variant, gate):
    with variant.executor(1) as executor:
        running, waiting = executor.submit(gate.hold, 1), executor.submit(work.add_one, 1)
        gate.wait_arrived()
        assert not running.cancel() and running.running()
        assert waiting.cancel() and waiting.cancelled()
        gate.release()
        assert running.result() == 1


@pytest.mark.processes
def test_kill_stops_a_running_task(variant, gate):
    with variant.executor(1) as executor:
        running = executor.submit(gate.hold)
        gate.wait_arrived()
        assert running.kill()
        with pytest.raises(multitask.CancelledError):
            running.result()
        assert executor.submit(work.add_one, 1).result() == 2


@pytest.mark.workers
def test_shutdown_can_cancel_what_waits(variant, gate):
    executor = variant.executor(1)
    running = executor.submit(gate.hold, "ran")
    gate.wait_arrived()
    waiting = [executor.submit(work.add_one, i) for i in range(50)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(task.cancelled() for task in waiting)
    gate.release()
    executor.shutdown()
    assert running.result() == "ran"


def test_an_initializer_and_max_tasks_per_child_are_taken(variant):
    with variant.executor(1, None, work.set_state, ("set",)) as executor:
        assert executor.submit(work.get_state).result() == "set"
    if variant.is_process:
        with variant.executor(1, max_tasks_per_child=1) as executor:
            assert len({executor.submit(work.my_pid).result() for _ in range(3)}) == 3


@pytest.mark.parametrize("wrong", [{"max_workers": 0}, {"max_workers": -1}, {"max_tasks_per_child": 0}], ids=repr)
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError):
        multitask.Executor(**wrong)


def test_a_context_gives_its_start_method():
    with multitask.Executor(1, multiprocessing.get_context("spawn")) as executor:
        assert executor._engine.config.start_method == "spawn"
        assert executor.submit(work.add_one, 1).result() == 2
