"""Waiting for what Python's own locks guard, so that Ctrl-C is heard.

A signal ends the sleep of the main thread on a lock, but not when it comes in the moment between the interpreter's
last look for signals and the sleep: CPython then handles it when the lock is had, which may be never. So the main
thread sleeps in slices. Other threads handle no signals and sleep in one piece.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from multitask._engine import clock
from multitask._typing import Any

__all__ = ["SLICE_SECONDS", "acquire", "often", "piece", "wait"]

SLICE_SECONDS = 0.25


def piece(seconds: float | None) -> float | None:
    """How long to sleep in one go when *seconds* (None: for ever) are to be waited."""
    if threading.current_thread() is not threading.main_thread():
        return None if seconds is None else min(max(seconds, 0.0), threading.TIMEOUT_MAX)
    return SLICE_SECONDS if seconds is None else min(max(seconds, 0.0), SLICE_SECONDS)


def acquire(lock: Any, seconds: float | None) -> bool:
    """``lock.acquire()`` for at most *seconds*; whether it was had."""
    return often(lambda left: lock.acquire(timeout=-1 if left is None else left), seconds)


def wait(event: threading.Event, seconds: float | None) -> bool:
    """``event.wait()`` for at most *seconds*; whether it is set."""
    return often(event.wait, seconds)


def often(sleep: Callable[[float | None], bool], seconds: float | None) -> bool:
    """Call *sleep* with what is left of *seconds*, a slice at a time, until it is true; whether it was."""
    end = None if seconds is None else clock.monotonic() + seconds
    while True:
        left = None if end is None else end - clock.monotonic()
        if sleep(piece(left)):
            return True
        if end is not None and clock.monotonic() >= end:
            return False
