"""Single calls: apply, apply_async, submit; what they return, raise and refuse."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import weakref

import pytest
import work

import multitask


def test_apply_returns_what_the_function_returns(pool):
    assert pool.apply(work.add_one, (1,)) == 2
    assert pool.apply(work.keywords, (1,), {"b": 2}) == ((1,), {"b": 2})


def test_submit_hands_every_keyword_to_the_function(pool):
    task = pool.submit(work.keywords, 1, fn=2, self=3, timeout=4, name=5)
    assert task.result() == ((1,), {"fn": 2, "self": 3, "timeout": 4, "name": 5})


def test_an_error_in_a_task_is_raised_by_get(pool):
    task = pool.apply_async(work.raise_value_error, ("x",))
    with pytest.raises(ValueError, match="bad x"):
        task.get()
    with pytest.raises(ValueError, match="bad x"):
        task.result()
    assert isinstance(task.exception(), ValueError)
    assert not task.successful()


def test_raising_the_same_error_again_does_not_lengthen_its_traceback(pool):
    task = pool.submit(work.raise_value_error)
    depths = []
    for _ in range(3):
        try:
            task.result()
        except ValueError as error:
            trace, depth = error.__traceback__, 0
            while trace is not None:
                trace, depth = trace.tb_next, depth + 1
            depths.append(depth)
    assert depths[0] == depths[1] == depths[2]


def test_an_error_that_was_raised_does_not_keep_what_the_caller_had(pool):
    class Large:
        pass

    def call():
        large = Large()
        with pytest.raises(ValueError, match="bad"):
            pool.submit(work.raise_value_error).result()
        return weakref.ref(large)

    seen = call()
    gc.collect()  # the frame and its error hold each other
    assert seen() is None


@pytest.mark.processes
def test_an_error_from_a_process_brings_its_traceback_along(pool):
    with pytest.raises(ValueError) as caught:
        pool.apply(work.raise_value_error)
    assert "in raise_value_error" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt("in a task"), GeneratorExit("out"), BaseException("base"), StopIteration(7)],
    ids=lambda error: type(error).__name__,
)
def test_any_exception_shows_up_in_get_and_the_pool_lives(pool, error):
    task = pool.submit(work.raise_this, error)
    with pytest.raises(type(error)) as caught:
        task.get()
    assert caught.value.args == error.args
    assert pool.apply(work.add_one, (1,)) == 2


def test_an_exception_with_two_required_arguments_arrives(pool):
    with pytest.raises(work.TwoArguments) as caught:
        pool.apply(work.raise_two_arguments)
    assert (caught.value.first, caught.value.second) == (1, 2)


@pytest.mark.processes
def test_a_result_that_cannot_travel_is_an_error_and_the_pool_lives(pool):
    for make in (work.make_lock, work.make_unloadable):
        with pytest.raises(Exception) as caught:
            pool.submit(make).get()
        assert "lock" in str(caught.value) or "unloadable" in str(caught.value)
    assert pool.apply(work.add_one, (1,)) == 2


@pytest.mark.processes
def test_an_exception_that_cannot_travel_is_still_named(pool):
    with pytest.raises(Exception) as caught:
        pool.submit(work.raise_holds_lock).get()
    assert "HoldsLock" in repr(caught.value) or "holds a lock" in str(caught.value)
    assert pool.apply(work.add_one, (1,)) == 2


@pytest.mark.processes
def test_an_argument_that_cannot_travel_is_named_by_its_path(pool):
    task = pool.submit(work.add_one, {"a": [1, threading.Lock()]})
    with pytest.raises(multitask.CannotTravel) as caught:
        task.result()
    assert "lock" in str(caught.value)
    assert "a" in (caught.value.path or "")


def test_args_that_is_no_tuple_raises_at_the_call_and_shows_the_call_to_write(pool):
    with pytest.raises(TypeError, match=r"args must be a tuple.*apply_async\(add_one, \(5,\)\)"):
        pool.apply_async(work.add_one, (5))
    with pytest.raises(TypeError, match="args must be a tuple"):
        pool.apply(work.add_one, ("text"))
    assert pool.apply_async(work.add_one, [5]).get() == 6
    assert pool.apply_async(work.add_one, iter([5])).get() == 6


def test_keywords_that_are_no_mapping_raise_at_the_call(pool):
    with pytest.raises(TypeError, match="kwds must be a mapping"):
        pool.apply_async(work.add_one, (5,), [1])


def test_callbacks_that_cannot_be_called_raise_at_the_call(pool):
    with pytest.raises(TypeError, match="callback must be a callable"):
        pool.apply_async(work.add_one, (5,), callback=3)


@pytest.mark.parametrize(
    "arguments",
    [{"processes": 0}, {"processes": -1}, {"maxtasksperchild": 0}, {"maxtasksperchild": 0.5}],
    ids=repr,
)
def test_wrong_numbers_raise_value_error_when_the_pool_is_made(variant, arguments):
    with pytest.raises(ValueError):
        variant.pool(**arguments)


def test_an_initializer_that_cannot_be_called_raises_when_the_pool_is_made(variant):
    with pytest.raises(TypeError, match="initializer must be a callable"):
        variant.pool(1, 5)


def test_an_unknown_kind_is_refused_with_the_kinds_there_are():
    with pytest.raises(ValueError, match="'process', 'thread', 'inline'"):
        multitask.Pool(1, kind="proces")
    with pytest.raises(multitask.NotSupported, match="'process'"):
        multitask.Pool(1, kind="interpreter")


@pytest.mark.workers
def test_a_wait_that_runs_out_raises_timeout_error_and_the_task_goes_on(pool, gate):
    task = pool.submit(gate.hold, "done")
    for error in (multitask.TimeoutError, multiprocessing.TimeoutError, TimeoutError):
        with pytest.raises(error):
            task.get(timeout=0.001)
        with pytest.raises(error):
            task.result(0)
        with pytest.raises(error):
            task.exception(timeout=0)
    task.wait(0.001)
    assert not task.ready()
    with pytest.raises(ValueError, match="not ready"):
        task.successful()
    gate.release()
    task.wait()
    assert task.ready() and task.successful() and task.done()
    assert task.get(0) == "done"


@pytest.mark.workers
def test_ctrl_c_while_waiting_is_raised_and_the_pool_stays_usable(pool, gate, interrupt_when):
    task = pool.submit(gate.hold, 1)
    with pytest.raises(KeyboardInterrupt):
        interrupt_when(gate.wait_arrived)
        task.result()
        raise AssertionError("the wait ended without an interrupt")
    gate.release()
    assert task.result() == 1
    assert pool.apply(work.add_one, (1,)) == 2


def test_two_threads_may_submit_at_once(pool):
    results = {}

    def run(start):
        results[start] = [pool.submit(work.add_one, start + i) for i in range(200)]

    threads = [threading.Thread(target=run, args=(start,)) for start in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for start, tasks in results.items():
        assert [task.result() for task in tasks] == [start + i + 1 for i in range(200)]


def test_a_task_shows_its_name_state_and_the_line_that_submitted_it(pool):
    task = pool.submit(work.add_one, 1)
    line = sys._getframe().f_lineno - 1
    task.result()
    assert repr(task) == f"<Task add_one finished, submitted at test_calls.py:{line}>"
    named = pool.options(name="mine").submit(work.raise_value_error)
    named.exception()
    assert repr(named).startswith("<Task mine failed with ValueError, submitted at")


@pytest.mark.workers
def test_a_pool_shows_who_is_busy_and_what_waits(one, gate):
    assert repr(one).startswith("<Pool ")
    one.submit(gate.hold)
    gate.wait_arrived()
    waiting = [one.submit(work.add_one, i) for i in range(3)]
    assert f"{one.kind} 1/1 busy" in repr(one)
    gate.release()
    assert [task.result() for task in waiting] == [1, 2, 3]


def test_an_initializer_runs_in_every_worker_before_its_first_task(variant):
    with variant.pool(2, work.set_state, (42,)) as pool:
        assert set(pool.map(work.get_state, range(20), chunksize=1)) == {42}


@pytest.mark.processes
def test_a_worker_is_replaced_after_maxtasksperchild(variant):
    with variant.pool(1, maxtasksperchild=2) as pool:
        pids = [pool.apply(work.my_pid) for _ in range(6)]
    assert len(set(pids)) == 3


def test_note_does_nothing_outside_a_worker():
    multitask.note("x" * 1000)


class Starving:
    """Finds no memory when it is pickled, or when it is rebuilt."""

    def __init__(self, when):
        self.when = when

    def __reduce__(self):
        if self.when == "pickled":
            raise MemoryError
        return work.raise_this, (MemoryError(),)


@pytest.mark.processes
@pytest.mark.parametrize("when", ["pickled", "rebuilt"])
def test_memory_that_runs_out_on_the_way_is_a_memory_error(pool, when):
    for task, what in ((pool.submit(repr, Starving(when)), "arguments"), (pool.submit(Starving, when), "result")):
        with pytest.raises(MemoryError) as caught:
            task.get()
        assert type(caught.value) is MemoryError
        assert any(f"{what} w" in note and when in note for note in caught.value.__notes__)
    assert pool.apply(work.add_one, (1,)) == 2


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="where else memory is told is not known")
def test_a_lost_worker_tells_how_large_it_was(pool):
    with pytest.raises(multitask.WorkerLost) as caught:
        pool.apply(os._exit, (3,))
    assert caught.value.memory > 1_000_000
