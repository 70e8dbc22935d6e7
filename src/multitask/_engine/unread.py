"""No failure is silent: what failed and was never asked for is shown on stderr when its pool ends."""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

from multitask._engine.sites import site_text

if TYPE_CHECKING:
    from multitask._engine.callbacks import Callbacks
    from multitask._engine.core import Core

LIMIT = 20  # blocks shown in full
FEW = 64  # so many failed tasks are looked through whenever one is asked for


class Failures(list[Any]):
    """Failed tasks that may still be asked for; a core's ``failures``.

    Who asks takes his task out, for its error may hold what is large (the frames it was raised in, their
    arguments). Of many tasks those that have been asked for are cleared out as the list doubles, on the callback
    thread: dropping the last reference to a task may run code of the user's.
    """

    def __init__(self, callbacks: Callbacks) -> None:
        super().__init__()
        self._callbacks = callbacks
        self._taking_out = threading.Lock()
        self.limit = 1000  # this long: time to clear out

    def append(self, task: Any) -> None:
        """Called under the core's lock: runs nothing of the user's."""
        super().append(task)
        if len(self) >= self.limit:
            self.trim()

    def trim(self) -> None:
        """Have those that were asked for cleared out soon."""
        self.limit *= 2
        self._callbacks.later(self._clear_out)

    def heard(self, task: Any) -> None:
        """Somebody has asked for *task*: it is held no longer, unless there are many."""
        # Not waited for: this may be a signal handler on the thread that has the lock.
        if len(self) > FEW or not self._taking_out.acquire(blocking=False):
            return
        try:
            for place, other in enumerate(self):
                if other is task:
                    del self[place]
                    return
        finally:
            self._taking_out.release()

    def _clear_out(self) -> None:
        with self._taking_out:
            # Only what stands in the list now is looked at; what others append meanwhile stays behind it.
            count = len(self)
            self[:count] = [task for task in self[:count] if not task._asked]
        self.limit = max(1000, 2 * len(self))


def heard(core: Core, task: Any) -> None:
    """Somebody has asked for *task*, which has failed: its error needs no report."""
    if isinstance(core.failures, Failures):
        core.failures.heard(task)


def report(core: Core, title: str = "multitask") -> int:
    """Show the failures of *core* that nobody has asked for, each once; returns how many there were.

    Decodes the errors, which may run code of the user's: not for the manager thread.
    """
    failures = _taken(core.failures)
    # What was cancelled did not fail: somebody wanted it so.
    unread = [task for task in failures if not (task._asked or task.cancelled())]
    if not unread:
        return 0
    lines = [_block(task, title) for task in unread[:LIMIT]]
    if len(unread) > LIMIT:
        lines.append(f"{title}: and {len(unread) - LIMIT} more failed tasks whose result nobody asked for\n")
    if sys.stderr is not None:
        sys.stderr.write("".join(lines))
        sys.stderr.flush()
    return len(unread)


def _taken(failures: list[Any]) -> list[Any]:
    with failures._taking_out if isinstance(failures, Failures) else contextlib.nullcontext():
        taken = failures[:]
        del failures[: len(taken)]
    return taken


def _block(task: Any, title: str) -> str:
    _, error = task._outcome()
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # the user's __str__ and the like
        text = f"{type(error).__qualname__} (it cannot be printed)\n"
    return (
        f"{title}: the task {task.name} failed and nobody asked for its result; "
        f"submitted at {site_text(task._submitted_at(), full=True)}\n{text}"
    )
