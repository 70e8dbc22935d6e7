"""What the native core does in the moments around its sleeps, with workers that are played in this process.

Whatever comes between the last collection and the sleep must be seen by the second look. Two things run exactly
there and can publish: a signal handler inside of a wait, and the hook that hands callbacks over inside of attend.
"""

import signal
import threading
import time

import pytest

from multitask import _native

if not _native.available:
    pytest.skip(_native.why_not, allow_module_level=True)

from played_workers import Codec, Hand, work

from multitask._engine.core import FINISHED, Options
from multitask._native.core import NativeCore
from multitask.task import task_class

TRIES = 5
AT_ONCE = 0.15  # seconds; without a second look it takes 0.25 or for ever


class Bench:
    """A core with one worker that has said hello."""

    def __init__(self, depth=64, hooked=None):
        self.codec = Codec()
        self.core = NativeCore(self.codec, task_class("process"), None, hooked)
        self.core.fixed_depth = depth
        self.hand = Hand(self.core)
        self.core.add_worker(0, self.hand.lane)
        self.hand.end.hello()
        self.core.attend(0)

    def submit(self, number=1, options=None):
        return self.core.submit(work, (number,), None, options)

    def take(self):
        return self.hand.end.take_by_hand(self.codec)

    def finish(self, value=1, ok=True):
        return self.hand.end.finish_by_hand(self.codec, value, ok)

    def close(self):
        self.core.remove_worker(0)
        self.core.dispose()
        self.hand.close()


@pytest.fixture
def bench():
    made = []

    def make(**how):
        made.append(Bench(**how))
        return made[-1]

    yield make
    for each in made:
        each.close()


def seconds_to_return(core, task, while_it_waits):
    """Wait for *task*; inside of the wait a signal handler calls *while_it_waits*. How long the wait went on then."""
    at = []

    def handler(number, frame):
        while_it_waits()
        at.append(time.monotonic())

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert core.wait(task, 20)
        return time.monotonic() - at[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_leader_sees_a_reply_that_came_before_its_sleep(bench):
    made = bench()
    times = []
    for _ in range(TRIES):
        task = made.submit()
        assert made.take()
        times.append(seconds_to_return(made.core, task, made.finish))
    assert min(times) < AT_ONCE, times


def test_a_leader_sees_that_its_target_was_settled_before_its_sleep(bench):
    made = bench()
    times = []
    for _ in range(TRIES):
        task = made.submit()
        assert made.take()
        times.append(seconds_to_return(made.core, task, lambda task=task: made.core.settle(task, FINISHED, True, 1)))
        assert made.finish()
        made.core.attend(0)
    assert min(times) < AT_ONCE, times


def test_a_leader_is_woken_when_another_thread_settles_its_target(bench):
    made = bench(depth=1)
    made.submit()
    times = []
    for _ in range(TRIES):
        task = made.submit()
        at = []

        def withdraw(task=task, at=at):
            time.sleep(0.03)  # the main thread leads by now; if not, this round shows nothing
            at.append(time.monotonic())
            assert made.core.withdraw(task) == 1

        thread = threading.Thread(target=withdraw)
        thread.start()
        assert made.core.wait(task, 20)
        times.append(time.monotonic() - at[0])
        thread.join()
    assert min(times) < AT_ONCE, times


def test_the_manager_sees_a_reply_that_came_before_its_sleep(bench):
    made = bench(hooked=lambda task, hooks: made.finish(ValueError("again"), ok=False))
    first, second = made.submit(), made.submit(options=Options(retries=1))
    first._add_hook(lambda task: None)
    assert made.take()
    made.finish()
    assert made.take()
    begun = time.monotonic()
    events = made.core.attend(10)
    assert [event[:2] for event in events] == [("failed", second)]
    assert time.monotonic() - begun < 5


def test_a_worker_that_waits_for_room_is_woken_when_there_is_some(bench):
    made = bench(depth=500)
    tasks = [made.submit(number) for number in range(200)]
    answered = []

    def answer():
        for _ in tasks:
            made.take()
            made.finish(ValueError("x" * 30_000), ok=False)  # eighteen fill the ring
            answered.append(1)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    end = time.monotonic() + 10
    while thread.is_alive() and time.monotonic() < end:
        seen = len(answered)
        thread.join(0.01)
        if seen == len(answered):  # it may well be asleep
            made.core.attend(0)
    assert len(answered) == len(tasks), "the worker still waits for room in an empty ring"
    thread.join()
    made.core.attend(0)
    assert all(str(task.exception()) == "x" * 30_000 for task in tasks)
