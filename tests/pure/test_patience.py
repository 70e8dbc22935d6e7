"""Ctrl-C in the moment between the interpreter's last look for signals and the sleep on a lock."""

from __future__ import annotations

import ctypes
import functools
import operator
import signal
import threading
import time
from typing import Any

import pytest
import queue_kinds

from multitask import Pool
from multitask._engine import patience

pytestmark = pytest.mark.timeout(20)  # a hang is what these tests look for


def interrupted(call: Any) -> Any:
    """*call*, right after a SIGINT: functions written in C, between which the interpreter does not look for signals."""
    ctrl_c = functools.partial(ctypes.PyDLL(None)["raise"], signal.SIGINT)
    return list(map(operator.call, (ctrl_c, call)))[1]


class Lock:
    """One that nobody lets go, and that is slept on just after a SIGINT; the first time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.turns = 0

    def acquire(self, timeout: float = -1) -> bool:
        self.turns += 1
        sleep = functools.partial(self.lock.acquire, timeout=timeout)
        return bool(interrupted(sleep) if self.turns == 1 else sleep())


@pytest.mark.parametrize("seconds", [None, 15.0])
def test_a_signal_just_before_the_sleep_is_heard(seconds: float | None) -> None:
    lock = Lock()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        patience.acquire(lock, seconds)
    assert time.monotonic() - begun < 10


def test_the_native_queue_between_threads_hears_it() -> None:
    queue = queue_kinds.Flavour("local-native").queue()
    with pytest.raises(KeyboardInterrupt):
        interrupted(queue.get)
    queue.put(1)
    assert queue.get() == 1


def test_other_threads_sleep_in_one_piece() -> None:
    found: list[float | None] = []
    thread = threading.Thread(
        target=lambda: found.extend([patience.piece(None), patience.piece(7), patience.piece(-1)])
    )
    thread.start()
    thread.join()
    assert found == [None, 7, 0]
    assert (patience.piece(None), patience.piece(7), patience.piece(0.1), patience.piece(-1)) == (0.25, 0.25, 0.1, 0)


def test_time_that_is_up_and_what_comes_later() -> None:
    event, lock = threading.Event(), threading.Lock()
    lock.acquire()
    assert not patience.wait(event, 0) and not patience.acquire(lock, -1) and not patience.wait(event, 0.3)
    timers = [threading.Timer(0.3, event.set), threading.Timer(0.3, lock.release)]
    for timer in timers:
        timer.start()
    assert patience.wait(event, None) and patience.acquire(lock, None)
    for timer in timers:
        timer.join()


def test_a_stream_whose_feeder_is_slow_ends_at_its_timeout() -> None:
    held = threading.Event()

    def slow() -> Any:
        held.wait()
        yield 1

    with Pool(1, kind="thread") as pool:
        results = pool.imap(str, slow())
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            results.next(timeout=0.6)
        assert time.monotonic() - begun >= 0.6
        held.set()
        assert next(results) == "1"
