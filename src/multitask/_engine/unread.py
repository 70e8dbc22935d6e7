"""No failure is silent: what failed and was never asked for is shown on stderr when its pool ends."""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any

from multitask._engine.sites import site_text

if TYPE_CHECKING:
    from multitask._engine.callbacks import Callbacks
    from multitask._engine.core import Core

LIMIT = 20  # blocks shown in full


class Failures(list[Any]):
    """Failed tasks that may still be asked for; a core's ``failures``. A None stands where one was taken out.

    Who asks takes his task out, for its error may hold what is large (the frames it was raised in, their
    arguments). Those that were asked for in another way (as chunks of a map, by concurrent.futures) are cleared out as
    the list doubles, on the callback thread: dropping the last reference to a task may run code of the user's.

    Rule: a core only appends. Places change under ``_taking_out``, and only of what stands before ``_known``.
    A finalizer or a signal handler may come in between, on the thread that has the lock: it changes nothing then, and
    finds out by ``busy_here`` before it takes everything.
    """

    def __init__(self, callbacks: Callbacks) -> None:
        super().__init__()
        self._callbacks = callbacks
        self._taking_out = threading.RLock()  # never taken twice; it knows whose it is
        self._heard: deque[Any] = deque()  # asked for, to be taken out
        self._places: dict[int, int] = {}  # id of a task -> its place, for the first _known of them
        self._known = 0
        self._holes = 0
        self.limit = 1000  # this long: time to clear out

    def append(self, task: Any) -> None:
        """Called under the core's lock: runs nothing of the user's."""
        super().append(task)
        if task._asked:  # somebody was faster: the task was seen to be settled before it came in here
            self._heard.append(task)
            self._callbacks.later(self._take_out_heard)
        if len(self) >= self.limit:
            self.trim()

    def trim(self) -> None:
        """Have those that were asked for cleared out soon."""
        self.limit *= 2
        self._callbacks.later(self._clear_out)

    def heard(self, task: Any) -> None:
        """Somebody has asked for *task*: it is held no longer."""
        self._heard.append(task)
        self._take_out_heard()

    def busy_here(self) -> bool:
        """Whether this thread is changing the list, further down its stack."""
        return self._taking_out._is_owned()  # type: ignore[attr-defined, no-any-return]

    def taken(self) -> list[Any]:
        """All of them, which are held no longer."""
        with self._taking_out:
            count = len(self)
            taken = self._replace(count, [])
        self._take_out_heard()
        return taken

    def _clear_out(self) -> None:
        with self._taking_out:
            # Only what stands in the list now is looked at; what others append meanwhile stays behind it.
            count = len(self)
            over = self._replace(count, [task for task in self[:count] if task is not None and not task._asked])
        del over
        self.limit = max(1000, 2 * len(self))
        self._take_out_heard()

    def _take_out_heard(self) -> None:
        # Not waited for: this may be a signal handler on the thread that has the lock, which then looks once more.
        while self._heard and not self.busy_here() and self._taking_out.acquire(blocking=False):
            try:
                while self._heard:
                    self._take_out(self._heard.popleft())
            finally:
                self._taking_out.release()

    def _take_out(self, task: Any) -> None:
        while self._known < len(self):
            self._places[id(self[self._known])] = self._known
            self._known += 1
        place = self._places.pop(id(task), None)
        if place is None:
            return  # a second time
        self[place] = None
        self._holes += 1
        if 2 * self._holes >= self._known:
            count = self._known
            self._replace(count, [task for task in self[:count] if task is not None])

    def _replace(self, count: int, tasks: list[Any]) -> list[Any]:
        """Put *tasks* in the place of the first *count*, which are returned."""
        old = [task for task in self[:count] if task is not None]
        self[:count] = tasks
        self._places.clear()
        self._known = self._holes = 0
        return old


def heard(core: Core, task: Any) -> None:
    """Somebody has asked for *task*, which has failed: its error needs no report."""
    if isinstance(core.failures, Failures):
        core.failures.heard(task)


def busy_here(core: Core) -> bool:
    """Whether this is a finalizer that came in the middle of its own thread's look at the failures of *core*."""
    return isinstance(core.failures, Failures) and core.failures.busy_here()


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
    if isinstance(failures, Failures):
        return failures.taken()
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
