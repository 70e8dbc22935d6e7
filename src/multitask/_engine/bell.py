"""Where a portable core's manager sleeps: one wait on a doorbell and on descriptors.

Any thread rings (``Bell.ring``: never blocks, may be called by signal handlers and finalizers); the manager sleeps
(``Sleeper.sleep``). Works with whatever ``selectors`` finds on the platform.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from typing import Any

LONGEST = 3600.0  # seconds; some systems refuse to sleep for weeks

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Bell:
    """Makes its descriptor readable when rung, until ``clear``."""

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._in = self._out = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self._in, self._out = os.pipe()
            os.set_blocking(self._in, False)
            os.set_blocking(self._out, False)
        # Closing and ringing exclude each other: the number may be another file's the moment after. Reentrant,
        # because a signal handler may ring while its thread does.
        self._lock = threading.RLock()

    def fileno(self) -> int:
        return self._in

    def ring(self) -> None:
        """Wake the sleeper, this time or the next; nothing happens after ``close``."""
        with self._lock:
            if self._out >= 0:
                # A full pipe has been rung.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._out, b"\1\0\0\0\0\0\0\0")

    def clear(self) -> None:
        """Forget all rings so far."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._in, 4096)) == 4096:
                pass

    def close(self) -> None:
        with self._lock:
            fds = {self._in, self._out} - {-1}
            self._in = self._out = -1
            for fd in fds:
                os.close(fd)

    def disown(self) -> None:
        """In a forked child: as ``close``, whoever held the lock."""
        self._lock = threading.RLock()
        self.close()


class Sleeper:
    """The bell and the descriptors that end a sleep. Manager thread only, ``ring`` excepted."""

    def __init__(self) -> None:
        self.bell = Bell()
        try:
            self._selector = selectors.DefaultSelector()
            self._selector.register(self.bell, READ, None)
        except BaseException:
            self.bell.close()
            raise
        self.ring = self.bell.ring

    def add(self, fd: int, what: int, tag: Any) -> None:
        """Let *fd* end sleeps, with *tag*."""
        self._selector.register(fd, what, tag)

    def drop(self, fd: int) -> None:
        """Forget *fd*; nothing happens when it is not known."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(fd)

    def sleep(self, seconds: float | None) -> list[Any]:
        """The tags of what is ready; sleeps until there is one, the bell rings or the time is over."""
        tags = []
        wait = None if seconds is None else min(max(seconds, 0.0), LONGEST)
        for key, _ in self._selector.select(wait):
            if key.data is None:
                self.bell.clear()
            else:
                tags.append(key.data)
        return tags

    def close(self) -> None:
        self._selector.close()
        self.bell.close()

    def disown(self) -> None:
        """In a forked child: close the copies, change nothing that the parent shares."""
        self.bell.disown()
        self._selector.close()
