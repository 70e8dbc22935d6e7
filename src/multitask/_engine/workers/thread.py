"""A worker that is a thread of this process: no start-up, no pickling, the user's objects themselves.

Rule: the thread is a daemon (it must not keep the process alive; the pool sees to it that work is finished) and
cannot be killed. Whatever a call raises is that call's result, SystemExit and KeyboardInterrupt included.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from multitask._engine.channels.memory import MemoryChannel
from multitask._engine.workers.calls import perform
from multitask.errors import NotSupported


class ThreadWorker:
    """One worker thread. ``core.add_worker(wid, channel)`` first, then ``start``."""

    def __init__(
        self,
        channel: MemoryChannel,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_tasks: int | None = None,
        name: str | None = None,
    ) -> None:
        self.channel = channel
        self.pid = os.getpid()
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._max_tasks = max_tasks
        self._thread = threading.Thread(target=self._run, name=name or "multitask-worker", daemon=True)

    def start(self) -> None:
        """Start the thread; RuntimeError when the system has none left."""
        self._thread.start()

    def fileno(self) -> int:
        """-1: a thread has no descriptor; its end is the event ``("exit", wid)``."""
        return -1

    def exitcode(self) -> int | None:
        """None while it runs, 0 after."""
        return None if self._thread.is_alive() else 0

    def join(self, timeout: float | None = None) -> bool:
        """Wait for its end; False when *timeout* seconds did not do."""
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def kill_tree(self) -> None:
        """Refused."""
        raise NotSupported(
            "a running thread cannot be killed",
            why="Python has no safe way to stop a thread from outside",
            fix="use kind='process', whose workers can be killed",
        )

    def close(self) -> None:
        """After its end was told: wait out the thread's last instructions."""
        self.join(1.0)

    def _run(self) -> None:
        channel = self.channel
        try:
            if self._prepare():
                channel.bye(self._serve())
        finally:
            channel.gone()

    def _prepare(self) -> bool:
        if self._initializer is not None:
            ok, error = perform(0, self._initializer, self._initargs, None)
            if not ok:
                self.channel.broken(error)
                return False
        self.channel.hello()
        return True

    def _serve(self) -> str:
        channel = self.channel
        left = self._max_tasks
        while (task := channel.take()) is not None:
            mode, fn, args, kwargs = task._load
            ok, value = perform(mode, fn, args, kwargs)
            channel.reply(task, ok, value)
            # Nothing of the call may stay alive in this frame while the thread sleeps.
            del task, fn, args, kwargs, value
            if left is not None:
                left -= 1
                if left <= 0:
                    return "maxtasksperchild"
        return "retired"
