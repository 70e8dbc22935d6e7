"""The lifeline: a pipe by which workers learn that their parent is gone, however it ended.

The parent keeps the write end for as long as it lives and nobody else ever has it: it is close-on-exec and
closed in every forked child. A worker opens a file description of its own for the read end and asks the
kernel to send SIGKILL to the worker's process group when something happens there. The only thing that can
happen is end of file, when the kernel closes the parent's descriptors. This needs no thread, works while C
code keeps the GIL, and does not depend on the thread that started the pool (PR_SET_PDEATHSIG does).

Owner of ``_ends``: whoever holds the gate of forking.py.
"""

from __future__ import annotations

import os
import select
import signal
import threading

from multitask._engine.workers import forking

try:
    import fcntl
except ImportError:  # a platform without it watches with a thread
    fcntl = None  # type: ignore[assignment]

_ends: tuple[int, int] | None = None
_armed = -1  # in a worker: its line
_SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)


def read_end() -> int:
    """The descriptor to hand to a worker; made on first use, one per process. Stays ours."""
    global _ends
    with forking.gate:
        if _ends is None:
            read, write = os.pipe()
            _ends = forking.own(read), forking.own(write)
        return _ends[0]


def descriptors() -> tuple[int, ...]:
    """Both ends, when there are any; they stay open until the process ends."""
    return _ends or ()


def _forget() -> None:
    global _ends
    _ends = None  # already closed: a child that starts workers makes a lifeline of its own


forking.in_forked_child(_forget)


def arm(fd: int, number: int = _SIGKILL) -> None:
    """In a worker that leads its process group: die when the process that holds the other end of *fd* dies.

    Takes *fd* over. The group dies too, where the platform can; elsewhere a thread does what it can. With another
    signal *number* that one is sent instead.
    """
    global _armed
    if fcntl is None or not hasattr(fcntl, "F_SETSIG") or not hasattr(signal, "SIGKILL"):
        _watch(fd)
        return
    try:
        # A description of our own: the owner and the signal belong to the description, and the inherited one
        # is shared with all the other workers.
        line = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no /proc here
        _watch(fd)
        return
    os.close(fd)
    if _armed >= 0:  # the fork server's own, inherited by this worker
        os.close(_armed)
    _armed = line
    fcntl.fcntl(line, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(line, fcntl.F_SETSIG, number)
    fcntl.fcntl(line, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    # The parent may have died before the line was armed: then no signal will ever come.
    poll = select.poll()
    poll.register(line, 0)
    if poll.poll(0):
        os.killpg(0, signal.SIGKILL)


def disarm() -> None:
    """In a process that is to outlive its parent: let go of a line that was inherited from the fork server."""
    global _armed
    if _armed >= 0:
        os.close(_armed)
        _armed = -1


def _watch(fd: int) -> None:
    threading.Thread(target=_wait_and_die, args=(fd,), name="multitask-lifeline", daemon=True).start()


def _wait_and_die(fd: int) -> None:
    try:
        os.read(fd, 1)
    except OSError:
        pass
    if hasattr(signal, "SIGKILL") and hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
