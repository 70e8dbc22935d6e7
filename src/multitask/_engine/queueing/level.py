"""A descriptor that is readable exactly while something is the case, for everybody who waits for it.

Rule: ``set`` and ``renew`` are called under the lock of what the level tells of; ``wait`` by anybody, at any time.
There is one byte in the pipe or none, and nobody takes it in order to wait: so all who wait wake up, and a process
that dies between two calls leaves at worst a wrong level, which ``renew`` puts right.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence

LONGEST_SECONDS = 3600.0  # some systems refuse to wait for weeks


def reopen(fd: int, flags: int) -> int | None:
    """The same file opened anew, with an open file description of its own; None where /proc cannot do it."""
    try:
        return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)
    except OSError:
        return None


class Level:
    """One byte in a pipe, or none. ``descriptors`` are its ends: one for both where the system can do that."""

    __slots__ = ("_in", "_out", "descriptors")

    def __init__(self, descriptors: Sequence[int]) -> None:
        self.descriptors = tuple(descriptors)
        self._out, self._in = self.descriptors[0], self.descriptors[-1]
        for fd in self.descriptors:
            os.set_blocking(fd, False)

    @classmethod
    def new(cls) -> Level:
        """A level that is off."""
        out, into = os.pipe()
        both = reopen(out, os.O_RDWR)
        if both is None:
            return cls([out, into])
        os.close(out)
        os.close(into)
        return cls([both])

    def set(self, on: bool) -> None:
        """Change it; it must be the other way round now."""
        if on:
            os.write(self._in, b"\1")
        else:
            self._empty()

    def renew(self, on: bool) -> None:
        """Make it *on* or off, whatever it is now."""
        self._empty()
        if on:
            os.write(self._in, b"\1")

    def _empty(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._out, 4096)

    def wait(self, seconds: float | None) -> None:
        """Sleep until it is on, at most *seconds*."""
        seconds = LONGEST_SECONDS if seconds is None else min(max(seconds, 0.0), LONGEST_SECONDS)
        if hasattr(select, "poll"):
            poller = select.poll()  # select() knows descriptors below 1,024 only
            poller.register(self._out, select.POLLIN)
            poller.poll(seconds * 1000)
        else:
            select.select([self._out], [], [], seconds)

    def close(self) -> None:
        for fd in self.descriptors:
            os.close(fd)
