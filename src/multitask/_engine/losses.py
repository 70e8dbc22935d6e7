"""What a task is told when its worker died under it or had to be killed. (pure)"""

from __future__ import annotations

import signal
from typing import Any

from multitask._engine.core import Removed
from multitask._engine.sites import site_text
from multitask.errors import PoolBroken, TaskTimeout, WorkerLost


def end_text(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is None:
        return "ended (its exit status is not known)"
    if exitcode < 0:
        try:
            name = signal.Signals(-exitcode).name
        except ValueError:
            name = f"signal {-exitcode}"
        return f"was killed by {name}"
    return f"exited with code {exitcode}"


def lost(worker: str, pid: int, exitcode: int | None, removed: Removed, tries: int, memory: int | None) -> WorkerLost:
    """The error of a task whose worker died while it ran it."""
    task: Any = removed.lost
    item = "" if removed.item is None else f" (at item {removed.item} of its chunk)"
    error = WorkerLost(
        f"{worker} (pid {pid}) {end_text(exitcode)} while it ran {task.name}{item}, "
        f"submitted at {site_text(task._site)}",
        why=_observed(removed, memory, tries),
        fix=_advice(exitcode, tries),
    )
    error.task, error.worker, error.pid = task.name, worker, pid
    error.exitcode, error.item, error.memory = exitcode, removed.item, memory
    if removed.crumb is not None:
        error.note, error.note_age = removed.crumb
    return error


def _observed(removed: Removed, memory: int | None, tries: int) -> str | None:
    seen = []
    if tries > 1:
        seen.append(f"it was the last of {tries} tries, each of which lost its worker or failed")
    if removed.crumb is not None:
        seen.append(f"its last note, {removed.crumb[1]:.1f} s before: {removed.crumb[0]!r}")
    if memory is not None:
        seen.append(f"the worker occupied {memory / 1e6:.0f} MB when last seen")
    return "; ".join(seen) or None


def _advice(exitcode: int | None, tries: int) -> str:
    if exitcode == -signal.SIGSEGV:
        return "native code crashed: run the call alone under `python -X faulthandler`"
    if exitcode is not None and exitcode >= 0:
        return "something in the call ended the process (os._exit, a native library); raise an exception instead"
    again = "" if tries > 1 else "options(retries=1) tries once more; "
    return f"{again}if memory ran out: fewer processes, or Pool(max_memory=…) to get a MemoryError instead"


def too_long(task: Any, timeout: float) -> TaskTimeout:
    """The error of a task that ran longer than it was allowed."""
    return TaskTimeout(
        f"{task.name}, submitted at {site_text(task._site)}, ran longer than its timeout of {timeout:g} s",
        why="its worker and everything that the worker had started were killed",
        fix="give a longer timeout, or make the call shorter",
    )


def broken(attempts: int, cause: BaseException | None, exitcode: int | None, name: str | None) -> PoolBroken:
    """The error of everything that waits in a pool whose workers do not get ready."""
    what = f"the pool{f' {name!r}' if name else ''} cannot get a worker ready: {attempts} in a row failed to start"
    if cause is not None:
        error = PoolBroken(
            what,
            why=f"{type(cause).__name__}: {cause}",
            fix="call the initializer with its arguments by hand to see it fail",
        )
        error.__cause__ = cause
        return error
    return PoolBroken(
        what,
        why=f"the last one {end_text(exitcode)} before it was ready",
        fix="look at its initializer, and at what the worker printed on stderr",
    )
