"""Differences on purpose, tested one by one: what goes to workers and comes back, and what they are born with."""

import concurrent.futures
import multiprocessing
import multiprocessing.pool
import os
import pickle
import signal
import threading

import pytest
import work

import multitask
from multitask import Pool


@pytest.mark.processes
def test_arguments_are_pickled_by_the_call(one, gate):
    one.submit(gate.hold)
    gate.wait_arrived()  # the only worker is busy: the task below waits
    items = [1, 2]
    task = one.apply_async(sum, (items,))
    items.append(100)
    gate.release()
    assert task.get() == 3


@pytest.mark.processes
def test_what_cannot_be_pickled_gives_cannot_travel(pool):
    for task in (pool.submit(work.make_lock), pool.submit(abs, threading.Lock())):
        with pytest.raises(multitask.CannotTravel) as caught:
            task.get()
        assert isinstance(caught.value, pickle.PicklingError) and isinstance(caught.value, TypeError)
        assert not isinstance(caught.value, (AttributeError, multiprocessing.pool.MaybeEncodingError))


@pytest.mark.processes
def test_an_error_that_cannot_be_pickled_has_a_stand_in(pool):
    with pytest.raises(work.HoldsLock, match="holds a lock") as caught:
        pool.apply(work.raise_holds_lock)
    with pytest.raises(multitask.CannotTravel):
        _ = caught.value.lock


@pytest.mark.processes
def test_the_traceback_of_the_worker_is_a_remote_traceback(pool):
    with pytest.raises(ValueError) as caught:
        pool.apply(work.raise_value_error)
    assert type(caught.value.__cause__) is multitask.errors.RemoteTraceback
    assert "in raise_value_error" in str(caught.value.__cause__)


def test_a_class_is_sent_once_and_a_name_bound_anew_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from multitask import Pool\n"
        "class Box:\n"
        "    label = 'old'\n"
        "number = 1\n"
        "def look():\n"
        "    return Box.label, number\n"
        "with Pool(1) as pool:\n"
        "    seen = [pool.apply(look)]\n"
        "    Box.label, number = 'changed in place', 2\n"
        "    seen.append(pool.apply(look))\n"
        "    class Box:\n"
        "        label = 'new'\n"
        "    seen.append(pool.apply(look))\n"
        "assert seen == [('old', 1), ('old', 2), ('new', 2)], seen\n"
    )
    done = work.run_script(script)
    assert (done.returncode, done.stderr) == (0, "")


_lock = None


def _keep(lock):
    global _lock
    _lock = lock


def _lock_is_free():
    if not _lock.acquire(block=False):
        return False
    _lock.release()
    return True


def _see(pool, lock):
    with lock:
        assert not pool.apply(_lock_is_free)
    assert pool.apply(_lock_is_free)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_multiprocessings_locks_reach_workers_as_initargs():
    lock = multiprocessing.get_context("fork").Lock()
    with Pool(1, _keep, (lock,), start_method="fork") as pool:
        _see(pool, lock)
    with pytest.raises(multitask.CannotTravel, match=r"args\[1\]\[0\](.|\n)*start method 'fork'(.|\n)*'spawn'"):
        Pool(1, _keep, (lock,), start_method="forkserver")
    lock = multiprocessing.get_context("spawn").Lock()
    with Pool(1, _keep, (lock,), start_method="forkserver") as pool:
        _see(pool, lock)


@pytest.mark.processes
def test_a_worker_has_a_name_and_the_key_of_its_parent_but_is_no_child_of_multiprocessing(pool):
    name, parent, key = pool.apply(work.who_am_i)
    assert name in ("worker-0", "worker-1") and parent is None
    assert key == bytes(multiprocessing.current_process().authkey)  # so that a Manager's proxies work
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_signal_handlers_of_the_parent_are_gone_in_a_forked_worker():
    before = signal.signal(signal.SIGUSR1, print)
    try:
        with Pool(1, start_method="fork") as pool:
            assert pool.apply(signal.getsignal, (signal.SIGUSR1,)) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("method", ["forkserver", "fork", "spawn"])
def test_what_a_worker_prints_is_written_at_once(method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from multitask import Pool\n"
        "with Pool(1, start_method=sys.argv[1]) as pool:\n"
        "    pool.apply(print, ('worker',))\n"
        "    os.write(1, b'parent\\n')\n"
    )
    done = work.run_script(script, method)
    assert (done.stdout, done.stderr) == ("worker\nparent\n", "")


def test_an_initializer_that_fails_breaks_the_pool():
    with Pool(1, int, ("no number",)) as pool:
        with pytest.raises(multitask.PoolBroken, match="3 in a row failed") as caught:
            pool.apply(abs, (1,))
        assert isinstance(caught.value, concurrent.futures.BrokenExecutor)
        assert isinstance(caught.value.__cause__, ValueError)


def test_a_context_is_taken_for_its_start_method():
    with Pool(1, context=multiprocessing.get_context("spawn")) as pool:
        assert pool._engine.config.start_method == "spawn"
        assert pool.apply(abs, (-1,)) == 1


def test_set_start_method_is_not_looked_at(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, os\n"
        "from multitask import Pool\n"
        "multiprocessing.set_start_method('fork')\n"
        "with Pool(1) as pool:\n"
        "    assert pool.apply(os.getppid) != os.getpid()\n"
    )
    done = work.run_script(script)
    assert (done.returncode, done.stderr) == (0, "")
