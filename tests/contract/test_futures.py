"""A Task among the standard library's futures, and under asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures

import pytest
import work

import multitask


def test_a_task_is_a_future(pool):
    task = pool.submit(work.add_one, 1)
    assert isinstance(task, concurrent.futures.Future)
    assert isinstance(task, multitask.Task)
    assert task.result() == 2
    for change in (lambda: task.set_result(3), lambda: task.set_exception(ValueError())):
        with pytest.raises(concurrent.futures.InvalidStateError):
            change()


def test_wait_and_as_completed_accept_tasks(pool):
    tasks = [pool.submit(work.raise_if_odd, i) for i in range(20)]
    done, not_done = concurrent.futures.wait(tasks, timeout=60)
    assert done == set(tasks) and not not_done
    assert set(concurrent.futures.as_completed(tasks, timeout=60)) == set(tasks)
    fresh = [pool.submit(work.add_one, i) for i in range(20)]
    assert {task.result() for task in concurrent.futures.as_completed(fresh, timeout=60)} == set(range(1, 21))
    assert all(isinstance(task.exception(), ValueError) for task in tasks[1::2])


@pytest.mark.workers
def test_wait_returns_at_the_first_that_fails_or_completes(pool, gate):
    stuck = pool.submit(gate.hold)
    gate.wait_arrived()
    failing = pool.submit(work.raise_value_error)
    for when in (concurrent.futures.FIRST_EXCEPTION, concurrent.futures.FIRST_COMPLETED):
        done, not_done = concurrent.futures.wait([stuck, failing], timeout=60, return_when=when)
        assert done == {failing} and not_done == {stuck}
    assert stuck.running() and not stuck.done()
    gate.release()
    done, not_done = concurrent.futures.wait([stuck, failing], timeout=60)
    assert not not_done
    failing.exception()


def test_a_task_can_be_awaited(pool):
    async def main():
        assert await pool.submit(work.add_one, 1) == 2
        with pytest.raises(ValueError, match="bad"):
            await pool.submit(work.raise_value_error)
        done = pool.submit(work.add_one, 2)
        done.result()
        assert await done == 3
        assert await asyncio.gather(*(pool.submit(work.add_one, i) for i in range(20))) == list(range(1, 21))
        assert await asyncio.wrap_future(pool.submit(work.add_one, 4)) == 5
        assert await pool.map_async(work.add_one, [1, 2]) == [2, 3]

    asyncio.run(main())


@pytest.mark.workers
def test_cancelling_the_awaiting_coroutine_cancels_the_task_and_shield_leaves_it(one, gate):
    async def awaits(task):
        return await task

    async def main():
        one.submit(gate.hold)
        gate.wait_arrived()
        lost, kept = one.submit(work.add_one, 1), one.submit(work.add_one, 2)
        for coroutine in (awaits(lost), awaits(asyncio.shield(kept))):
            waiter = asyncio.ensure_future(coroutine)
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
        await asyncio.sleep(0)
        assert lost.cancelled() and not kept.cancelled()
        gate.release()
        assert await kept == 3

    asyncio.run(main())


def test_run_in_executor_takes_an_executor(variant):
    async def main():
        with variant.executor(2) as executor:
            assert await asyncio.get_running_loop().run_in_executor(executor, work.add_one, 1) == 2

    asyncio.run(main())
