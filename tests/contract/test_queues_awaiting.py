"""``await q.aget()`` and ``await q.aput()``."""

import asyncio
import gc
import os
import threading

import pytest
from queue_kinds import HANG_SECONDS, Call

from multitask import Queue, ShutDown
from multitask._engine.queueing import awaiting


def run(coroutine):
    """As asyncio.run, with an end to hangs."""
    return asyncio.run(asyncio.wait_for(coroutine, HANG_SECONDS))


async def waiting(queue, coroutine):
    """*coroutine* as a task that has begun to wait."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


def watchers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("multitask-await")]


def test_aget_returns_what_is_there_at_once(flavour):
    q = flavour.queue()
    q.put(1)
    assert run(q.aget()) == 1


def test_aget_waits_while_the_loop_goes_on(flavour):
    q = flavour.queue()

    async def main():
        task = await waiting(q, q.aget())
        putter = Call(q.put, "later")
        assert await task == "later"
        putter.result()

    run(main())


def test_aput_waits_for_room(flavour):
    q = flavour.queue(1)

    async def main():
        await q.aput(1)
        task = await waiting(q, q.aput(2))
        getter = Call(q.get)
        await task
        assert getter.result() == 1

    run(main())
    assert q.get() == 2


def test_timeouts_raise_empty_and_full(flavour):
    q = flavour.queue(1)

    async def main():
        with pytest.raises(q.Empty):
            await q.aget(timeout=0.02)
        with pytest.raises(q.Empty):
            await q.aget(timeout=0)
        await q.aput(1)
        with pytest.raises(q.Full):
            await q.aput(2, timeout=0.02)

    run(main())
    assert q.get_many() == [1]


def test_shutdown_wakes_all(flavour):
    q = flavour.queue()

    async def main():
        tasks = [await waiting(q, q.aget()) for _ in range(20)]
        Call(q.shutdown).result()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ShutDown] * 20

    run(main())


def test_ten_thousand_coroutines_wait_with_one_thread():
    q = Queue(shared=False)

    async def main():
        tasks = [asyncio.ensure_future(q.aget()) for _ in range(10_000)]
        await asyncio.sleep(0)
        assert len(watchers()) == 1
        putter = Call(q.put_many, range(10_000))
        assert await asyncio.gather(*tasks) == list(range(10_000))
        putter.result()

    run(main())


def test_the_thread_ends_when_nobody_waits():
    q = Queue(shared=False)

    async def main():
        task = await waiting(q, q.aget())
        q.put(1)
        await task

    run(main())
    for thread in watchers():
        thread.join(HANG_SECONDS)
    assert not watchers() and not awaiting._watches


def test_cancelling_never_loses_a_message():
    q = Queue(shared=False)

    async def main():
        got = []
        for n in range(300):
            tasks = [asyncio.ensure_future(q.aget()) for _ in range(3)]
            await asyncio.sleep(0)
            putter = Call(q.put, n)
            for _ in range(n % 7):  # cancel at each point on the way
                await asyncio.sleep(0)
            tasks[0].cancel()
            putter.result()
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            rest = [task for task in tasks if not task.done()]
            if all(task.cancelled() for task in tasks if task.done()):
                done, _ = await asyncio.wait(rest, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            got += [each for each in outcomes if not isinstance(each, BaseException)]
        return got

    got = run(main())
    assert sorted(got + ([] if q.empty() else q.get_many())) == list(range(300))


def test_who_is_cancelled_with_the_turn_in_hand_passes_it_on():
    q = Queue(shared=False)

    async def main():
        first = await waiting(q, q.aget())
        second = await waiting(q, q.aget())
        (watch,) = awaiting._watches.values()
        (line,) = watch.lines.values()
        q.put("one")
        while line.turn is None:  # the thread gives it; this coroutine does not let the other run
            os.sched_yield()
        first.cancel()
        assert await second == "one"
        assert first.cancelled()

    run(main())


def test_several_loops_share_one_thread_and_all_get_theirs():
    q = Queue(shared=False)
    together = threading.Barrier(4)

    async def main():
        tasks = [asyncio.ensure_future(q.aget()) for _ in range(50)]
        await asyncio.sleep(0)
        together.wait()
        return await asyncio.gather(*tasks)

    loops = [Call(run, main()) for _ in range(3)]
    together.wait()
    assert len(watchers()) == 1
    q.put_many(range(150))
    assert sorted(sum((loop.result() for loop in loops), [])) == list(range(150))


def test_a_loop_closed_under_its_coroutines_leaves_the_others_alone():
    q = Queue(shared=False)

    async def leave():
        asyncio.ensure_future(q.aget())
        await asyncio.sleep(0)

    abandoned = asyncio.new_event_loop()
    abandoned.run_until_complete(leave())
    tasks = asyncio.all_tasks(abandoned)
    abandoned.close()

    async def main():
        task = await waiting(q, q.aget())
        q.put("mine")
        return await task

    assert run(main()) == "mine"
    for task in tasks:
        task._log_destroy_pending = False
    del tasks, task
    gc.collect()


def test_an_error_of_waiting_itself_reaches_everybody(monkeypatch):
    class Broken(type(Queue(shared=False))):
        __slots__ = ()

        def wait_readable(self, timeout=None):
            raise OSError("the wire is cut")

    q = Broken()

    async def main():
        tasks = [asyncio.ensure_future(q.aget()) for _ in range(3)]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["the wire is cut"] * 3

    run(main())


def test_without_a_loop_the_error_says_what_is_needed():
    coroutine = Queue(shared=False).aget()
    with pytest.raises(RuntimeError, match="asyncio or trio"):
        coroutine.send(None)


def test_the_child_of_a_fork_waits_with_a_thread_of_its_own():
    q = Queue(shared=False)

    async def hold(ready, go):
        task = asyncio.ensure_future(q.aget())
        await asyncio.sleep(0)
        ready.set()
        await asyncio.to_thread(go.wait)
        q.put("parent")
        return await task

    ready, go = threading.Event(), threading.Event()
    parent = Call(run, hold(ready, go))
    ready.wait()
    child = os.fork()
    if child == 0:

        async def main():
            task = asyncio.ensure_future(q.aget())
            await asyncio.sleep(0)
            q.put("child")
            return await task

        os._exit(0 if run(main()) == "child" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    go.set()
    assert parent.result() == "parent"


def test_trio_and_anyio_wait_too():
    trio = pytest.importorskip("trio")
    pytest.importorskip("trio.testing")
    q = Queue(shared=False)

    async def main():
        got = []

        async def one():
            got.append(await q.aget())

        with trio.fail_after(HANG_SECONDS):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(one)
                await trio.testing.wait_all_tasks_blocked()
                putter = Call(q.put_many, "abc")
        putter.result()
        assert sorted(got) == ["a", "b", "c"]
        with pytest.raises(q.Empty):
            await q.aget(timeout=0.01)
        with trio.move_on_after(0.01) as scope:
            await q.aget()
        assert scope.cancelled_caught

    trio.run(main)
