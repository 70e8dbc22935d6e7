"""The life of a pool: closing, joining, terminating, `with`, being dropped; failures nobody asked for."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref

import pytest
import work

import multitask


def test_after_close_every_method_raises_pool_closed(pool):
    pool.close()
    calls = [
        lambda: pool.submit(work.add_one, 1),
        lambda: pool.apply(work.add_one, (1,)),
        lambda: pool.apply_async(work.add_one, (1,)),
        lambda: pool.map(work.add_one, [1]),
        lambda: pool.map_async(work.add_one, [1]),
        lambda: pool.starmap(work.add_one, [(1,)]),
        lambda: pool.imap(work.add_one, [1]),
        lambda: pool.imap_unordered(work.add_one, [1]),
        lambda: pool.stream(work.add_one, [1]),
        lambda: pool.options(name="x").submit(work.add_one, 1),
        lambda: pool.__enter__(),
    ]
    for call in calls:
        with pytest.raises(multitask.PoolClosed, match="Pool not running") as caught:
            call()
        assert isinstance(caught.value, ValueError) and isinstance(caught.value, RuntimeError)
    pool.join()


def test_join_before_close_is_refused(pool):
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()


@pytest.mark.workers
def test_close_and_join_finish_what_waits(pool, gate):
    blockers = [pool.submit(gate.hold) for _ in range(2)]
    gate.wait_arrived(2)
    tasks = [pool.submit(work.add_one, i) for i in range(10_000)]
    pool.close()
    gate.release(2)
    pool.join()
    assert all(task.done() for task in [*blockers, *tasks])
    assert [task.result() for task in tasks] == list(range(1, 10_001))


def test_close_join_and_terminate_may_be_called_again(pool):
    pool.close()
    pool.close()
    pool.join()
    pool.join()
    pool.terminate()
    pool.join()


def test_leaving_with_waits_for_everything(variant, tmp_path):
    mark = tmp_path / "mark"
    with variant.pool(2) as pool:
        tasks = [pool.submit(work.mark_and_add, mark, i) for i in range(20)]
    assert all(task.done() for task in tasks)
    assert sorted(map(int, work.lines(mark))) == list(range(20))


@pytest.mark.processes
def test_leaving_with_on_an_error_stops_the_work(variant, gate):
    with pytest.raises(LookupError):
        with variant.pool(1) as pool:
            running = pool.submit(gate.hold)
            waiting = pool.submit(work.add_one, 1)
            gate.wait_arrived()
            raise LookupError
    assert running.cancelled() and waiting.cancelled()


@pytest.mark.workers
def test_terminate_cancels_what_waits_and_wakes_who_waits_for_it(one, gate):
    one.submit(gate.hold)
    gate.wait_arrived()
    waiting = [one.submit(work.add_one, i) for i in range(100)]
    whole = one.map_async(work.add_one, range(10))
    outcome = []

    def wait_for_last():
        try:
            waiting[-1].get()
        except multitask.CancelledError as error:
            outcome.append(error)

    thread = threading.Thread(target=wait_for_last)
    thread.start()
    one.terminate()
    thread.join()  # while the only worker is still at the gate, or dead
    gate.release()
    one.join()
    assert len(outcome) == 1
    assert all(task.cancelled() for task in waiting)
    with pytest.raises(multitask.CancelledError):
        whole.get()
    with pytest.raises(multitask.PoolClosed):
        one.submit(work.add_one, 1)
    assert "terminated" in repr(one)


def test_a_pool_made_in_a_thread_that_ends_goes_on(variant):
    made = []
    thread = threading.Thread(target=lambda: made.append(variant.pool(2)))
    thread.start()
    thread.join()
    with made.pop() as pool:
        assert pool.map(work.add_one, range(10)) == list(range(1, 11))


def test_a_dropped_pool_is_freed_and_finishes_its_work(variant):
    pool = variant.pool(2)
    variant.made.clear()
    reference = weakref.ref(pool)
    tasks = [pool.submit(work.add_one, i) for i in range(50)]
    whole = pool.map_async(work.add_one, range(10))
    gc.disable()
    try:
        del pool
        assert reference() is None  # by the last reference, not by the garbage collector
    finally:
        gc.enable()
    assert [task.result() for task in tasks] == list(range(1, 51))
    assert whole.get() == list(range(1, 11))


def test_a_pool_cannot_be_pickled(pool):
    with pytest.raises(NotImplementedError, match="cannot be passed between processes"):
        pickle.dumps(pool)


def test_a_failure_nobody_asked_for_is_shown_when_the_pool_ends(variant, capfd):
    with variant.pool(2) as pool:
        pool.submit(work.raise_value_error, "unread")
        pool.map_async(work.raise_if_odd, [7, 9], chunksize=1)
        pool.apply_async(work.raise_value_error, ("half read",), callback=print)
    error = capfd.readouterr().err
    assert "ValueError: bad unread" in error and "in raise_value_error" in error
    assert "ValueError: 7" in error and "ValueError: 9" not in error
    assert "bad half read" in error
    assert "test_lifecycle.py:" in error
    assert error.count("nobody asked for its result") == 3


def test_a_failure_that_was_asked_for_is_not_shown(variant, capfd):
    with variant.pool(2) as pool:
        for ask in ("exception", "successful", "wait_and_get", "callback", "imap", "map"):
            task = pool.apply_async(
                work.raise_value_error, error_callback=(lambda _: None) if ask == "callback" else None
            )
            if ask == "exception":
                task.exception()
            elif ask == "successful":
                task.wait()
                assert not task.successful()
            elif ask == "wait_and_get":
                with pytest.raises(ValueError):
                    task.get()
            else:
                with pytest.raises(ValueError):
                    task.get() if ask == "callback" else list(getattr(pool, ask)(work.raise_if_odd, [1, 3]))
                task.exception()
        pool.imap(work.raise_if_odd, [])
    assert capfd.readouterr().err == ""


def test_many_unread_failures_are_counted(variant, capfd):
    with variant.pool(2) as pool:
        for i in range(25):
            pool.submit(work.raise_value_error, i)
    error = capfd.readouterr().err
    assert error.count("Traceback") >= 20
    assert "and 5 more failed tasks" in error
