"""PortableCore with worker threads: objects themselves, no hop through the manager, nothing lost."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from multitask._engine.channels.memory import MemoryChannel
from multitask._engine.core import CANCELLED, FINISHED, RUNNING, STARCHUNK, TAKEN_BACK, Options
from multitask._engine.ledger import WITHDRAWN
from multitask._engine.portable import PortableCore
from multitask._engine.taskbase import Basket
from multitask._engine.workers.thread import ThreadWorker
from multitask.errors import NotSupported
from multitask.policies import Priority


class Callbacks:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, list[Any]]] = []

    def put(self, task: Any, hooks: list[Any]) -> None:
        self.calls.append((task, list(hooks)))


class Pool:
    """A core with a manager thread that does nothing but keep the events."""

    def __init__(self, **options: Any) -> None:
        self.core = PortableCore(callbacks=Callbacks(), **options)
        self.events: list[Any] = []
        self.told = threading.Condition()
        self.workers: dict[int, ThreadWorker] = {}
        self.over = False
        self.manager = threading.Thread(target=self.manage)
        self.manager.start()

    def manage(self) -> None:
        while not self.over:
            events = self.core.attend(None)
            with self.told:
                self.events += events
                self.told.notify_all()

    def await_event(self, *wanted: Any) -> Any:
        def found() -> Any:
            return next((event for event in self.events if event[: len(wanted)] == wanted), None)

        with self.told:
            assert self.told.wait_for(found, 20), (wanted, self.events)
            return found()

    def start(self, count: int, **options: Any) -> Pool:
        for _ in range(count):
            wid = len(self.workers)
            channel = MemoryChannel()
            self.core.add_worker(wid, channel)
            self.workers[wid] = ThreadWorker(channel, **options)
            self.workers[wid].start()
        return self

    def submit(self, fn: Any, *args: Any, options: Options | None = None, **more: Any) -> Any:
        return self.core.submit(fn, args, None, options, **more)

    def get(self, task: Any) -> Any:
        assert self.core.wait(task, 20)
        return task._outcome()

    def close(self) -> None:
        self.over = True
        self.core.post(None)
        self.manager.join()
        self.core.dispose()
        for worker in self.workers.values():
            assert worker.join(20)


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()


def fail(error: BaseException) -> None:
    raise error


def test_a_call_gets_and_gives_the_objects_themselves(pool: Pool) -> None:
    pool.start(1)
    thing = [threading.Lock()]
    ok, value = pool.get(pool.submit(lambda x: (x, threading.current_thread()), thing))
    assert ok and value[0] is thing
    assert value[1] is not threading.current_thread()


def test_what_a_call_raises_is_its_outcome_whatever_it_is(pool: Pool) -> None:
    pool.start(1)
    for error in (ValueError(), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("odd")):
        assert pool.get(pool.submit(fail, error)) == (False, error)
    assert pool.get(pool.submit(abs, -1)) == (True, 1)


def test_the_traceback_of_an_error_begins_in_the_users_function(pool: Pool) -> None:
    pool.start(1)
    _, error = pool.get(pool.submit(fail, ValueError()))
    assert error.__traceback__.tb_frame.f_code is fail.__code__


def test_chunks_are_mapped_in_the_worker(pool: Pool) -> None:
    pool.start(1)
    parent, basket = pool.core.group(2)
    pool.submit(pow, [(2, 3), (2, 4)], mode=STARCHUNK, basket=basket)
    pool.submit(pow, [(2, 5)], mode=STARCHUNK, basket=basket)
    assert pool.get(parent) == (True, [8, 16, 32])


def test_nobody_works_before_the_initializer_has_run(pool: Pool) -> None:
    order: list[str] = []
    task = pool.submit(order.append, "task")
    pool.start(1, initializer=order.append, initargs=("initializer",))
    assert pool.get(task)[0]
    assert order == ["initializer", "task"]
    pool.await_event("ready", 0)


def test_a_failing_initializer_is_told_and_ends_the_worker(pool: Pool) -> None:
    error = SystemExit(1)
    pool.start(1, initializer=fail, initargs=(error,))
    assert pool.await_event("broken", 0)[2] is error
    pool.await_event("exit", 0)
    assert pool.workers[0].join(20) and pool.workers[0].exitcode() == 0
    assert pool.core.remove_worker(0).lost is None


def test_a_worker_leaves_after_its_number_of_tasks(pool: Pool) -> None:
    pool.start(1, max_tasks=2)
    tasks = [pool.submit(abs, number) for number in range(3)]
    assert pool.await_event("bye", 0) == ("bye", 0, "maxtasksperchild")
    pool.await_event("exit", 0)
    assert [task._settled for task in tasks] == [True, True, False]
    pool.start(1)
    assert pool.get(tasks[2]) == (True, 2)


def test_a_retired_worker_leaves_and_the_others_serve_on(pool: Pool) -> None:
    pool.start(3)
    for wid in (0, 1, 2):
        pool.await_event("ready", wid)
    pool.core.retire(1)
    assert pool.await_event("bye", 1) == ("bye", 1, "retired")
    pool.await_event("exit", 1)
    assert all(pool.get(pool.submit(abs, number)) == (True, number) for number in range(50))
    assert pool.workers[0].exitcode() is None


def test_a_running_task_cannot_be_taken_back_and_a_waiting_one_can(pool: Pool) -> None:
    pool.start(1)
    arrived, gate = threading.Event(), threading.Event()
    running = pool.submit(lambda: (arrived.set(), gate.wait(20)))
    assert arrived.wait(20)
    waiting = pool.submit(fail, AssertionError("never runs"))
    assert pool.core.running(running) and not pool.core.running(waiting)
    assert pool.core.started(running) is not None
    assert pool.core.counts() == (1, 1, 1)
    assert pool.core.withdraw(running) == RUNNING
    assert pool.core.withdraw(waiting) == TAKEN_BACK  # this is the main thread: the manager settles it
    assert waiting._status == CANCELLED
    gate.set()
    assert pool.get(running)[0]
    assert pool.core.unfinished == 0


def test_withdrawing_from_other_threads_settles_too(pool: Pool) -> None:
    tasks = [pool.submit(abs, number) for number in range(100)]
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.extend(pool.core.withdraw(task) for task in tasks))
    thread.start()
    thread.join()
    assert answers == [TAKEN_BACK] * 100
    assert all(task._status == CANCELLED for task in tasks)
    assert pool.core.unfinished == 0


def test_retries_go_through_the_manager(pool: Pool) -> None:
    pool.start(1)
    error = ValueError()
    task = pool.submit(fail, error, options=Options(retries=1))
    assert pool.await_event("failed", task) == ("failed", task, 0, error)
    assert not task._settled
    pool.events.clear()
    pool.core.requeue(task)
    pool.await_event("failed", task)
    pool.core.settle(task, FINISHED, False, error)
    assert task._outcome() == (False, error)


def test_a_timeout_is_refused_with_the_kind_that_can(pool: Pool) -> None:
    with pytest.raises(NotSupported, match="kind='process'"):
        pool.submit(abs, 1, options=Options(timeout=1))
    assert pool.core.unfinished == 0


def test_a_thread_cannot_be_killed(pool: Pool) -> None:
    pool.start(1)
    with pytest.raises(NotSupported, match="kind='process'"):
        pool.workers[0].kill_tree()


def test_priority_decides_among_what_waits() -> None:
    pool = Pool(policy=Priority())
    try:
        order: list[int] = []
        tasks = [pool.submit(order.append, p, options=Options(priority=p)) for p in (0, 3, 1, 2)]
        pool.start(1)
        assert all(pool.get(task)[0] for task in tasks)
        assert order == [3, 2, 1, 0]
    finally:
        pool.close()


def test_hooks_are_put_in_order_of_completion(pool: Pool) -> None:
    tasks = [pool.submit(abs, number) for number in range(20)]
    assert all(task._add_hook(print) for task in tasks)
    pool.start(1)
    assert all(pool.get(task)[0] for task in tasks)
    assert pool.core.callbacks.calls == [(task, [print]) for task in tasks]


def test_a_stream_basket_gets_each_task_once(pool: Pool) -> None:
    pool.start(3)
    basket = Basket(pool.core, 500)
    tasks = {pool.submit(abs, number, basket=basket) for number in range(500)}
    got = set()
    while len(got) < 500:
        assert pool.core.wait(basket, 20)
        while basket.ready:
            got.add(basket.ready.popleft())
    assert got == tasks


def test_many_submitters_and_workers_lose_nothing(pool: Pool) -> None:
    pool.start(4)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        results: list[list[Any]] = [[] for _ in range(4)]

        def submit_many(mine: list[Any], first: int) -> None:
            for number in range(first, first + 300):
                task = pool.submit(abs, number)
                if number % 3:  # so that workers fall asleep again and again
                    mine.append((number, pool.get(task)))
                else:
                    mine.append((number, task))

        threads = [
            threading.Thread(target=submit_many, args=(mine, 1000 * k), daemon=True) for k, mine in enumerate(results)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        for number, got in [pair for mine in results for pair in mine]:
            assert (got if isinstance(got, tuple) else pool.get(got)) == (True, number)
        assert pool.core.unfinished == 0
    finally:
        sys.setswitchinterval(interval)


def test_an_idle_worker_keeps_nothing_of_its_last_call_alive(pool: Pool) -> None:
    pool.start(1)

    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    assert pool.get(pool.submit(lambda x: x, thing))[0]
    del thing
    channel = pool.workers[0].channel
    while not channel.asleep:  # it will be: there is nothing else to do
        time.sleep(0.001)
    gc.collect()
    assert gone() is None


def test_a_closed_core_that_runs_empty_says_so() -> None:
    core = PortableCore()
    channel = MemoryChannel()
    core.add_worker(0, channel)
    worker = ThreadWorker(channel)
    worker.start()
    assert core.attend(20) == [("ready", 0)]
    core.submit(abs, (1,), None)
    core.close()
    assert core.attend(None) == [("idle",)]
    core.dispose()
    assert worker.join(20)


def test_disposing_lets_sleeping_workers_go_and_cancels_what_waits() -> None:
    pool = Pool().start(2)
    for wid in (0, 1):
        pool.await_event("ready", wid)
        pool.core.retire(wid)
    late = pool.submit(abs, 1)
    pool.close()
    assert late._status == CANCELLED


# --- races, forced


def by_hand(count: int) -> tuple[PortableCore, list[MemoryChannel]]:
    """A core whose worker threads are this test."""
    core = PortableCore()
    channels = [MemoryChannel() for _ in range(count)]
    for wid, channel in enumerate(channels):
        core.add_worker(wid, channel)
        channel.hello()
    return core, channels


def test_a_task_submitted_just_before_a_worker_is_listed_as_idle_is_seen(pool: Pool) -> None:
    # The worker has looked, found nothing, and is about to be listed; submit finds nobody to wake.
    late: list[Any] = []

    class Idle(deque[Any]):
        def append(self, channel: Any) -> None:
            if not late:
                late.append(pool.submit(abs, -7))
            super().append(channel)

    pool.core._lanes._idle = Idle()
    pool.start(1)
    pool.await_event("ready", 0)
    while not late:
        time.sleep(0.001)
    assert pool.get(late[0]) == (True, 7)


def test_a_worker_that_takes_one_of_two_tasks_wakes_another_for_the_second() -> None:
    # Both submits woke the same worker.
    core, (busy, idle) = by_hand(2)
    core._lanes._idle.append(busy)
    first, second = core.submit(abs, (1,), None), core.submit(abs, (2,), None)
    core._lanes._idle.append(idle)
    assert busy.take() is first
    assert idle._bell.qsize() == 1
    assert idle.take() is second
    core.dispose()


def test_a_worker_that_leaves_hands_its_wake_up_on() -> None:
    core, (leaving, idle) = by_hand(2)
    core._lanes._idle.append(leaving)
    task = core.submit(abs, (1,), None)
    core.retire(0)
    core._lanes._idle.append(idle)
    assert leaving.take() is None
    assert idle._bell.qsize() == 1
    assert idle.take() is task
    core.dispose()


def test_a_verdict_that_nobody_acted_on_is_acted_on_by_the_next_to_meet_the_task() -> None:
    # As far as a withdraw comes that is interrupted twice.
    core, (worker,) = by_hand(1)
    in_inbox, in_line, waiting = (core.submit(abs, (number,), None) for number in range(3))
    in_inbox._place = WITHDRAWN
    core._drain(2)
    in_line._place = WITHDRAWN
    assert worker.take() is waiting
    assert in_inbox._status == in_line._status == CANCELLED
    core.dispose()


def test_a_verdict_on_a_task_that_was_set_aside_is_acted_on_when_it_is_queued_again() -> None:
    core, (worker,) = by_hand(1)
    task = core.submit(abs, (1,), None, Options(retries=1))
    assert worker.take() is task
    worker.reply(task, False, ValueError())
    task._place = WITHDRAWN
    core.requeue(task)
    assert task._status == CANCELLED and core.unfinished == 0
    core.dispose()
