"""The way between a core and a worker thread: the user's objects themselves, nothing is copied.

    worker thread: hello() ── take() ── reply() ── take() ── … ── bye(reason) ── gone()

A call is not sent: the worker takes it out of the core's ledger, and settles it there when it is done, so that no
other thread stands between the caller and the worker. What the manager must know goes to it as an event.
Rule: ``attach`` (by ``core.add_worker``) comes before the thread starts. A thread sleeps only in ``sleep``, after it
has announced itself as idle and looked once more; each ``wake`` ends one sleep.
"""

from __future__ import annotations

import queue
from typing import Any

from multitask._engine import clock


class MemoryChannel:
    """One worker thread's link to its core."""

    def __init__(self) -> None:
        self.lanes: Any = None
        self.wid = -1
        self.asleep = False  # written by the worker, under the core's lock when it turns True
        self.started: float | None = None
        self.crumb: tuple[str, float] | None = None  # last note of the task and when it was written
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def attach(self, lanes: Any, wid: int) -> None:
        """Join this channel to its core."""
        self.lanes = lanes
        self.wid = wid

    # --- the worker thread

    def hello(self) -> None:
        """The initializer has run: this worker may be given tasks."""
        self.lanes.ready(self)

    def take(self) -> Any:
        """The next task, started; sleeps until there is one. None: leave."""
        return self.lanes.take(self)

    def reply(self, task: Any, ok: bool, value: Any) -> None:
        """The call has ended."""
        self.lanes.reply(self, task, ok, value)

    def note(self, data: bytes) -> None:
        """Remember the last words of the running task."""
        self.crumb = (data.decode("utf-8", "replace"), clock.monotonic())

    def bye(self, reason: str) -> None:
        """This worker takes nothing more and is about to end."""
        self.lanes.event(self, ("bye", self.wid, reason))

    def broken(self, error: BaseException) -> None:
        """The initializer failed."""
        self.lanes.event(self, ("broken", self.wid, error))

    def gone(self) -> None:
        """The last words: the thread ends now."""
        self.lanes.event(self, ("exit", self.wid))

    def sleep(self) -> None:
        """Until somebody wakes this worker."""
        self._bell.get()
        self.asleep = False

    # --- anybody

    def wake(self) -> None:
        """End one ``sleep``, this one or the next."""
        self._bell.put(None)

    def close(self) -> None:
        """Nothing to give back."""
