"""Callbacks: once, in the submitting process, in order of completion, and harmless whatever they do."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest
import work

import multitask


@pytest.fixture
def unraisable(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    yield seen
    # What it holds may hold the traceback of frames that hold a pool.
    seen.clear()


def test_a_callback_gets_the_result_once_before_get_returns(pool):
    got, errors = [], []
    for i in range(20):
        pool.apply_async(work.add_one, (i,), callback=got.append, error_callback=errors.append).get()
        assert got == list(range(1, i + 2))
    assert errors == []


def test_an_error_callback_gets_the_error_once(pool):
    got, errors = [], []
    task = pool.apply_async(work.raise_value_error, callback=got.append, error_callback=errors.append)
    task.wait()
    assert got == [] and [type(error) for error in errors] == [ValueError]


def test_map_async_calls_back_once_with_the_whole_list(pool):
    got = []
    pool.map_async(work.add_one, range(10), 3, got.append, got.append).wait()
    pool.map_async(work.raise_if_odd, range(10), 3, got.append, got.append).wait()
    pool.map_async(work.add_one, [], None, got.append).wait()
    assert got[0] == list(range(1, 11))
    assert isinstance(got[1], ValueError) and got[1].args == (1,)
    assert got[2] == []


def test_callbacks_run_on_one_thread_that_is_not_the_callers(pool):
    threads = set()
    tasks = [
        pool.apply_async(work.add_one, (i,), callback=lambda _: threads.add(threading.current_thread()))
        for i in range(10)
    ]
    for task in tasks:
        task.get()
    assert len(threads) == 1
    assert threading.main_thread() not in threads


@pytest.mark.workers
def test_callbacks_come_in_order_of_completion(pool, gate):
    got = []
    slow = pool.apply_async(gate.hold, ("slow",), callback=got.append)
    gate.wait_arrived()
    pool.apply_async(work.add_one, (1,), callback=got.append).get()
    gate.release()
    slow.get()
    assert got == [2, "slow"]


@pytest.mark.parametrize("error", [ValueError("oops"), SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_a_callback_that_raises_is_reported_and_harms_nobody(pool, unraisable, error):
    def fail(_):
        raise error

    got = []
    pool.apply_async(work.add_one, (1,), callback=fail).get()
    assert pool.apply_async(work.add_one, (2,), callback=got.append).get() == 3
    assert got == [3]
    assert [report.exc_value for report in unraisable] == [error]


@pytest.mark.workers
def test_a_callback_that_blocks_holds_up_no_result(pool):
    unblock = threading.Event()
    stuck = pool.apply_async(work.add_one, (1,), callback=lambda _: unblock.wait())
    assert pool.apply_async(work.add_one, (2,)).get() == 3
    assert pool.map(work.add_one, range(10)) == list(range(1, 11))
    assert stuck.result() == 2  # only get(), as in multiprocessing, waits for the callback too
    assert not stuck.ready()
    with pytest.raises(multitask.TimeoutError):
        stuck.get(0.001)
    unblock.set()
    assert stuck.get() == 2


def test_a_callback_may_get_another_result_and_submit(pool):
    got = []

    def again(value):
        got.append(pool.apply_async(work.add_one, (value,), callback=got.append).get())

    pool.apply_async(work.add_one, (1,), callback=again).get()
    pool.close()
    pool.join()
    assert got == [3, 3]


def test_a_callback_may_close_and_join_its_pool(pool):
    joined = threading.Event()

    def end(_):
        pool.close()
        pool.join()
        joined.set()

    pool.apply_async(work.add_one, (1,), callback=end).get()
    assert joined.is_set()
    with pytest.raises(multitask.PoolClosed):
        pool.submit(work.add_one, 1)


def test_a_callback_may_terminate_its_pool(pool):
    ended = []
    pool.apply_async(work.add_one, (1,), callback=lambda _: ended.append(pool.terminate())).get()
    assert ended == [None]
    pool.join()


def test_join_waits_for_the_callbacks(variant):
    got = []
    with variant.pool(2) as pool:
        for i in range(50):
            pool.apply_async(work.add_one, (i,), callback=got.append)
    assert sorted(got) == list(range(1, 51))


def test_callback_on_calls_in_the_event_loop(pool):
    async def main():
        loop = asyncio.get_running_loop()
        got = loop.create_future()
        failed = loop.create_future()
        pool.apply_async(work.add_one, (1,), callback=got.set_result, callback_on=loop)
        pool.map_async(work.raise_if_odd, [1], error_callback=failed.set_result, callback_on=loop)
        assert await got == 2
        assert isinstance(await failed, ValueError)

    asyncio.run(main())


def test_done_callbacks_get_the_task(pool):
    done = threading.Event()
    seen = []
    task = pool.submit(work.add_one, 1)

    def note(future):
        seen.append(future)
        done.set()

    task.add_done_callback(note)
    assert done.wait(60)
    assert seen == [task]
    task.add_done_callback(seen.append)  # already done: at once, here
    assert seen == [task, task]


@pytest.mark.workers
def test_a_cancelled_task_tells_its_error_callback(one, gate):
    got = []
    one.submit(gate.hold)
    gate.wait_arrived()
    task = one.apply_async(work.add_one, (1,), callback=got.append, error_callback=got.append)
    assert task.cancel()
    task.wait()
    assert [type(error) for error in got] == [multitask.CancelledError]
    gate.release()
