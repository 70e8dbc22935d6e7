"""The lock of a queue on a file: one that the kernel takes from a process that dies, where it knows how to.

Rule: a lock is tried and let go under a mutex of the process, never waited for: no file lock can be waited for with a
time limit, so who finds it taken comes again (``FileQueue._step``).
"""

from __future__ import annotations

import os
import struct
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from multitask._engine.queueing.level import reopen

if TYPE_CHECKING:
    import fcntl
else:
    try:
        import fcntl
    except ImportError:  # not everywhere
        fcntl = None


class Lock(Protocol):
    """``fd`` is the descriptor that its process reads and writes the file with, too."""

    fd: int
    survives_death: ClassVar[bool]  # of its holder

    def attempt(self) -> bool:
        """Take it; False when somebody else has it."""

    def release(self) -> None:
        """Let it go; nothing happens when this process does not have it."""

    def forked(self) -> None:
        """In a forked child: do not share the hold of the parent."""

    def handle(self) -> Any:
        """What has to travel besides the file."""


class DescriptionLock:
    """Linux: a lock on the first byte that belongs to an open file description, and so to one process each.

    Neither ``flock`` nor another descriptor of the file that is closed in this process can disturb it, which is not
    true of the POSIX lock. A forked child shares the description, hence ``forked``.
    """

    __slots__ = ("fd",)
    survives_death: ClassVar[bool] = True

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def attempt(self) -> bool:
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _first_byte(fcntl.F_WRLCK))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self) -> None:
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _first_byte(fcntl.F_UNLCK))

    def forked(self) -> None:
        own = reopen(self.fd, os.O_RDWR)
        if own is not None:
            os.dup2(own, self.fd, inheritable=False)
            os.close(own)

    def handle(self) -> None:
        return None


def _first_byte(kind: int) -> bytes:
    """A ``struct flock`` for the first byte of the file, as the C compiler lays it out."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 1, 0)


class ProcessLock:
    """Other POSIX systems: ``lockf``, which belongs to the process."""

    __slots__ = ("fd",)
    survives_death: ClassVar[bool] = True

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def attempt(self) -> bool:
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self) -> None:
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 1)

    def forked(self) -> None:
        """Nothing to do: a child inherits no such lock."""

    def handle(self) -> None:
        return None


class SemaphoreLock:
    """Where files have no locks: the stdlib's. A holder that is killed leaves it shut for ever."""

    __slots__ = ("_semaphore", "fd")
    survives_death: ClassVar[bool] = False

    def __init__(self, fd: int, semaphore: Any = None) -> None:
        self.fd = fd
        if semaphore is None:
            from multiprocessing import get_context

            # Reentrant, for the sake of its release(): that one refuses to let go what another has.
            semaphore = get_context("spawn").RLock()
        self._semaphore = semaphore

    def attempt(self) -> bool:
        return bool(self._semaphore.acquire(False))

    def release(self) -> None:
        try:
            self._semaphore.release()
        except AssertionError:  # another has it
            pass

    def forked(self) -> None:
        """Nothing to do: it belongs to a thread of one process."""

    def handle(self) -> Any:
        return self._semaphore


def best(fd: int) -> Lock:
    """The best lock there is for the file *fd*, which is the lock's from now on."""
    if fcntl is None:
        return SemaphoreLock(fd)
    if hasattr(fcntl, "F_OFD_SETLK") and sys.maxsize > 2**32:
        own = reopen(fd, os.O_RDWR)
        if own is not None:
            os.close(fd)
            return DescriptionLock(own)
    return ProcessLock(fd)
