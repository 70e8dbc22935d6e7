"""What the fault tests share: variants of a pool, kill points and random kills, looking at processes."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from multitask import Pool, Task, _native
from multitask._engine.staff import Hand, Staff
from multitask.errors import WorkerLost

HANG_SECONDS = 60.0  # only detects a hang
METHODS = ("fork", "forkserver", "spawn")
VARIANTS = [f"{channel}-{method}" for channel in ("native", "pipe") for method in METHODS]
FORKING = ["native-fork", "pipe-fork", "native-forkserver"]  # where a full table costs too much


@contextmanager
def variant(name: str) -> Iterator[functools.partial[Pool]]:
    """``with variant("pipe-fork") as make: pool = make(2)``."""
    channel, _, method = name.partition("-")
    if channel == "native" and not _native.available:
        pytest.skip(_native.why_not)
    with pytest.MonkeyPatch.context() as patch:
        if channel == "pipe":
            patch.setattr(_native, "available", False)
        yield functools.partial(Pool, start_method=method)


@contextmanager
def ended(pool: Pool) -> Iterator[Pool]:
    """The pool, terminated afterwards however the test ends."""
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


def workers(pool: Pool) -> list[int]:
    """The pids of its workers now."""
    staff = pool._engine._supervisor._staff  # type: ignore[union-attr]
    return [hand.worker.pid for hand in tuple(staff.hands.values())]


def ready_workers(pool: Pool, count: int) -> list[int]:
    """The pids of *count* workers that have reported for work."""
    staff = pool._engine._supervisor._staff  # type: ignore[union-attr]

    def ready() -> list[int]:
        return [hand.worker.pid for hand in tuple(staff.hands.values()) if hand.state == "ready"]

    wait_until(lambda: len(ready()) >= count)
    return ready()


def wait_until(what: Any, seconds: float = HANG_SECONDS) -> float:
    """Look until ``what()`` is true (for what nothing announces); how many seconds that took."""
    begun = time.monotonic()
    while not what():
        if time.monotonic() - begun > seconds:
            pytest.fail(f"not so within {seconds} s: {what}")
        time.sleep(0.001)
    return time.monotonic() - begun


def alive(pid: int) -> bool:
    """Whether a process runs (one that waits to be reaped does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X", b"x")


def stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def kill(pid: int, number: int = signal.SIGKILL) -> float:
    """Signal a process that may be gone; returns when, by this process's clock."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    return time.monotonic()


def error_of(task: Task[Any], seconds: float = HANG_SECONDS) -> BaseException | None:
    """How the task ended: its error, or None; TimeoutError after *seconds* fails the test."""
    return task.exception(seconds)


class Execution:
    """Lets each worker that is hired kill itself at a step of the protocol, one entry of the plan after the other.

    ``hits`` counts, by step, the workers that died of it.
    """

    def __init__(self, plan: Iterable[tuple[int, int]]) -> None:
        self._plan = iter(plan)
        self._lock_in: dict[str, tuple[int, int]] = {}
        self.hits: Counter[int] = Counter()
        self.done = False  # the plan is used up

    @contextmanager
    def installed(self) -> Iterator[Execution]:
        spec, bury = Staff._spec, Staff.bury

        def planned_spec(staff: Staff, channel: str, name: str) -> dict[str, Any]:
            given = spec(staff, channel, name)
            entry = next(self._plan, None)
            if entry is None:
                self.done = True
            else:
                self._lock_in[name] = given["kill_point"] = entry
            return given

        def counting_bury(staff: Staff, hand: Hand) -> int | None:
            killed = hand.killed
            code = bury(staff, hand)
            if hand.name in self._lock_in and code == -signal.SIGKILL and not killed:
                self.hits[self._lock_in[hand.name][0]] += 1
            return code

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Staff, "_spec", planned_spec)
            patch.setattr(Staff, "bury", counting_bury)
            yield self


class Account:
    """Checks that each of many tasks ran once and ended rightly."""

    def __init__(self) -> None:
        self.finished: set[int] = set()
        self.lost: set[int] = set()
        self.numbers = itertools.count()

    def settle(self, number: int, task: Task[Any]) -> None:
        error = task.exception(HANG_SECONDS)
        if error is None:
            self.finished.add(number)
        else:
            assert isinstance(error, WorkerLost), repr(error)
            self.lost.add(number)

    def check(self, diary: Any) -> None:
        runs = Counter(int(line[0]) for line in diary.lines())
        twice = {number: count for number, count in runs.items() if count > 1}
        assert not twice, f"ran more than once: {twice}"
        unrun = self.finished - runs.keys()
        assert not unrun, f"finished and never ran: {sorted(unrun)[:10]}"


def run_script(name: str, code: str, *args: object, seconds: float = HANG_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run *code* as a program of its own, in which ``make(n)`` makes a pool of the variant."""
    done = subprocess.run(script(name, code, *args), capture_output=True, text=True, timeout=seconds, env=environment())
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def script(name: str, code: str, *args: object) -> list[str]:
    """The command line of such a program."""
    channel, _, method = name.partition("-")
    if channel == "native" and not _native.available:
        pytest.skip(_native.why_not)
    start = SCRIPT_START.format(native=channel == "native", method=method)
    return [sys.executable, "-c", start + textwrap.dedent(code), *map(str, args)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.path.dirname(__file__), "PYTHONFAULTHANDLER": "1"}


SCRIPT_START = """\
import gc, os, resource, signal, sys, threading, time
import multitask._native as _native
if not {native}:
    _native.available = False
from fault_work import *
from multitask import *
from multitask.errors import *
def make(*args, **kwargs):
    return Pool(*args, start_method={method!r}, **kwargs)
"""
