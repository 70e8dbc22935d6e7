"""Worker threads and the ledger: a thread takes its next call itself, and sleeps when there is none.

Rule: a thread joins ``_idle`` under the lock and then looks at the inbox once more; ``submit`` appends to the inbox
and then pops from ``_idle``. One of the two sees the other. Whoever takes a task (or leaves) while more wait wakes
the next thread, so that no wake-up stops at a thread that was busy with something else.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

from multitask._engine import clock
from multitask._engine.channels.memory import MemoryChannel
from multitask._engine.core import Event, Removed
from multitask.errors import NotSupported


class ThreadLanes:
    """The side of a PortableCore that knows about worker threads."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._idle: deque[MemoryChannel] = deque()
        self._channels: dict[int, MemoryChannel] = {}
        self.watched: set[int] = set()

    # --- any thread

    def load(self, task: Any, fn: Any, args: Any, kwargs: dict[str, Any] | None) -> None:
        """Keep what the call needs: the objects themselves."""
        if task._options is not None and task._options.timeout is not None:
            raise NotSupported(
                "a call in a thread cannot have a timeout",
                why="a running thread cannot be killed",
                fix="use kind='process', whose workers can be killed",
            )
        task._load = (task._mode, fn, args, kwargs)

    def wake(self) -> None:
        """There is work: wake one idle thread."""
        if self._idle:
            with contextlib.suppress(IndexError):  # another submit was faster
                self._idle.pop().wake()

    def is_reply(self, value: object) -> bool:
        """Whether *value* is an outcome that has yet to be decoded."""
        return False

    # --- the worker thread, through its channel

    def ready(self, channel: MemoryChannel) -> None:
        core = self._core
        with core._lock:
            core._ledger.ready(channel.wid)
            core._tell(("ready", channel.wid))

    def take(self, channel: MemoryChannel) -> Any:
        """The next task, started; None: this worker is to leave."""
        core = self._core
        while True:
            with core._lock:
                self._forget(channel)
                holding = core._ledger.workers.get(channel.wid)
                if holding is None or holding.ending:
                    self._pass_on()
                    return None
                task = self._look(channel)
                if task is None:
                    channel.asleep = True
                    self._idle.append(channel)
                    if core._inbox:
                        continue
            if task is not None:
                return task
            channel.sleep()

    def _look(self, channel: MemoryChannel) -> Any:
        core = self._core
        ledger = core._ledger
        while True:
            if ledger.line.ordered:
                core._drain(len(core._inbox))
            elif not len(ledger.line):
                core._drain()
            task = ledger.take(channel.wid)
            core._finish_orphans()
            if task is not None:
                ledger.start(task)
                channel.started = clock.monotonic()
                channel.crumb = None
                self._pass_on()
                return task
            if not core._inbox:
                return None

    def reply(self, channel: MemoryChannel, task: Any, ok: bool, value: Any) -> None:
        """The call has ended; settled here and now."""
        core = self._core
        with core._lock:
            core._replied(channel.wid, task, ok, value, False)
        if task._settled:
            task._load = None  # here, since dropping the caller's objects may run code of the user's

    def event(self, channel: MemoryChannel, event: Event) -> None:
        """The worker is ending; the manager must know."""
        core = self._core
        with core._lock:
            holding = core._ledger.workers.get(channel.wid)
            if holding is not None:
                holding.ending = True
            self._forget(channel)
            self._pass_on()
            core._tell(event)

    def _forget(self, channel: MemoryChannel) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(channel)

    def _pass_on(self) -> None:
        if self._core._inbox or len(self._core._ledger.line):
            self.wake()

    # --- the manager thread

    def add(self, wid: int, channel: MemoryChannel) -> None:
        self._channels[wid] = channel
        channel.attach(self, wid)

    def remove(self, wid: int) -> Removed:
        core = self._core
        with core._lock:
            channel = self._channels.pop(wid)
            self._forget(channel)
            lost, back = core._ledger.remove_worker(wid)
            over = [task for task in lost if task._settled]
            for task in over:
                core._ledger.settled(task)
        for task in over:
            core._let_go(task)
        channel.wake()
        task = next((each for each in lost if not each._settled), None)
        if task is None:
            return Removed(None, None, None, None, len(back))
        crumb = channel.crumb and (channel.crumb[0], clock.monotonic() - channel.crumb[1])
        return Removed(task, None, channel.started, crumb, len(back))

    def stop(self, wid: int) -> None:
        """It is retired: let it notice."""
        with self._core._lock:
            self._forget(self._channels[wid])
        self._channels[wid].wake()

    def started(self, task: Any) -> float | None:
        channel = self._channels.get(task._wid)
        return None if channel is None else channel.started

    def pressing(self) -> bool:
        """Whether the manager has something to do besides its events."""
        return False

    def gather(self) -> None:
        """Wake who should not sleep: a submit may have been interrupted before it did."""
        if self._core._inbox or len(self._core._ledger.line):
            for channel in list(self._channels.values()):
                if channel.asleep:
                    channel.wake()

    def turn(self, seconds: float | None) -> None:
        """Sleep."""
        for _, wid, fd in self._core._sleeper.sleep(seconds):
            self._core._sleeper.drop(fd)
            self._core._tell(("exit", wid))

    def close(self) -> None:
        for channel in list(self._channels.values()):
            with self._core._lock:
                self._core._ledger.retire(channel.wid)
            channel.wake()

    def disown(self) -> None:
        """The threads are not in this process."""
        self._idle.clear()
        self._channels.clear()
