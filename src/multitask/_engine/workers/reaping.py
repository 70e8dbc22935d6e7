"""How the end of a worker is seen and its exit status read: by pidfd, through the fork server, or by a pipe.

Three reapers with one interface. ``ended()`` never blocks; ``status()`` is called once it has ended, reaps
and says how, None when nobody knows (somebody else's ``os.wait()`` took it, or the fork server was killed).
"""

from __future__ import annotations

import errno
import functools
import os
import select
import signal
import struct
import sys
import time

from multitask._engine import clock
from multitask._engine.workers import forking, messages, server
from multitask._typing import Protocol

REAP_SECONDS = 1.0  # for a process whose pipe has closed to be dead as well

_PIDFD_INFO = struct.Struct("=QQ11Ii")  # struct pidfd_info, include/uapi/linux/pidfd.h
_PIDFD_GET_INFO = 0xC0000000 | _PIDFD_INFO.size << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT = 1 << 3


class Reaper(Protocol):
    def fileno(self) -> int: ...
    def ended(self) -> bool: ...
    def status(self) -> int | None: ...
    def close(self) -> None: ...


@functools.cache
def has_pidfds() -> bool:
    """Whether processes can be named by descriptors here (Linux 5.4, unless a sandbox forbids it)."""
    if not (hasattr(os, "pidfd_open") and hasattr(os, "P_PIDFD")):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return True


def wait(fd: int, seconds: float | None = 0.0) -> bool:
    """Whether *fd* is readable, at once or within *seconds*; None: sooner or later."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def ended_already() -> int:
    """An owned descriptor that stands for a pidfd of a process that was reaped before one could be made."""
    with forking.gate:
        read, write = os.pipe()
        os.close(write)
        return forking.own(read)


class ByPidfd:
    """A child of this process. Owns *pidfd*."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd

    def fileno(self) -> int:
        return self._pidfd

    def ended(self) -> bool:
        return wait(self._pidfd)

    def status(self) -> int | None:
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except OSError:  # no such child any more, or (see ended_already) no pidfd
            return status_after_reaping(self._pidfd)
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def close(self) -> None:
        forking.disown(self._pidfd)


class ByServer(ByPidfd):
    """A child of the fork server. Owns *pidfd* and *line*."""

    def __init__(self, pidfd: int, line: server.Line) -> None:
        super().__init__(pidfd)
        self._line = line

    def status(self) -> int | None:
        state, code = self._line.reap()
        return code if state == messages.ENDED else status_after_reaping(self._pidfd)

    def close(self) -> None:
        self._line.close()
        super().close()


class ByPipe:
    """A child of this process that holds the write end of a pipe for as long as it lives. Owns the read end."""

    def __init__(self, pid: int, read_end: int) -> None:
        self._pid = pid
        self._read_end = read_end

    def fileno(self) -> int:
        return self._read_end

    def ended(self) -> bool:
        return wait(self._read_end)

    def status(self) -> int | None:
        """The pipe closes a moment before the process is dead; one that closed it itself and lives on is killed."""
        deadline = clock.monotonic() + REAP_SECONDS
        try:
            found, status = os.waitpid(self._pid, os.WNOHANG)
            while not found and clock.monotonic() < deadline:
                time.sleep(0.001)
                found, status = os.waitpid(self._pid, os.WNOHANG)
            if not found:
                os.kill(self._pid, getattr(signal, "SIGKILL", signal.SIGTERM))
                _, status = os.waitpid(self._pid, 0)
        except ChildProcessError:
            return None
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        forking.disown(self._read_end)


def status_after_reaping(pidfd: int) -> int | None:
    """The exit status of a process that somebody else reaped, where the kernel keeps it (Linux 6.15)."""
    if sys.platform != "linux":
        return None
    import fcntl

    question = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, 0, *[0] * 11, 0))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, question)
    except OSError:
        return None
    answer = _PIDFD_INFO.unpack(question)
    if not answer[0] & _PIDFD_INFO_EXIT:
        return None
    return os.waitstatus_to_exitcode(answer[-1])
