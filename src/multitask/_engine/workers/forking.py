"""Forking, and what must not live on in a forked child.

Every descriptor that would hold something open in a child it does not belong to (the write end of the
lifeline, the line to the fork server) is *owned*: it is close-on-exec and closed in every forked child,
the user's own ``os.fork()`` included. Other parts of the library add their own with ``in_forked_child``.

Rule: the gate is held from the making of such a descriptor until it is owned, and from the copying of
descriptors for a worker until the copies are closed again. A fork in any thread waits for the gate, so no
child ever starts between the two. Nobody sleeps holding it.

A thread that forks waits, with the gate, for the locks of all the modules that have hooks of their own (logging, say).
A finalizer may run with any of these held, so it never waits for the gate: ``disown_soon``.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable

gate = threading.RLock()

_owned: set[int] = set()
_unwanted: deque[int] = deque()  # owned still, to be closed
_callbacks: list[Callable[[], None]] = []
_python_warns = sys.version_info >= (3, 12)
_WARNING = r"This process \(pid=\d+\) is multi-threaded, use of fork"
_filter: object = None


def own(fd: int) -> int:
    """Have *fd* closed in every forked child; give it back unchanged. Call it with the gate held."""
    _owned.add(fd)
    return fd


def pipe() -> tuple[int, int]:
    """A pipe whose ends are owned from the start."""
    with gate:
        read, write = os.pipe()
        return own(read), own(write)


def let_go(fd: int) -> int:
    """Have *fd* live on in forked children like any other; give it back unchanged."""
    with gate:
        _owned.discard(fd)
    return fd


def disown(fd: int) -> None:
    """Close a descriptor that was owned."""
    if sys.is_finalizing():  # a thread that stands still may hold the gate, and no child will be forked
        os.close(fd)
        return
    with gate:
        _owned.discard(fd)
        os.close(fd)
    close_unwanted()


def disown_soon(fd: int) -> None:
    """``disown`` for finalizers: never waits. When the gate is taken, a thread of its own waits for it."""
    if sys.is_finalizing():
        os.close(fd)
        return
    _unwanted.append(fd)
    close_unwanted()
    if _unwanted:
        with contextlib.suppress(RuntimeError):  # no thread to be had: whoever closes something next does it
            _thread.start_new_thread(_close_late, ())


def _close_late() -> None:
    with gate:
        close_unwanted()


def close_unwanted() -> None:
    """Close what finalizers could not, if nobody has the gate. Never waits."""
    while _unwanted and gate.acquire(blocking=False):
        try:
            while _unwanted:
                fd = _unwanted.popleft()
                _owned.discard(fd)
                os.close(fd)
        finally:
            gate.release()


def in_forked_child(callback: Callable[[], None]) -> None:
    """Call *callback* in every forked child, after the owned descriptors were closed there.

    It runs in the order of registration, in the child's only thread; locks that another thread of the parent
    held are held for ever. What it raises is reported and does not stop the others.
    """
    _callbacks.append(callback)


def fork() -> int:
    """``os.fork()`` without Python 3.12's warning about threads.

    The warning is meant for a child that goes on with the user's program. A worker's child never returns into
    the code that forked: it replaces the standard streams, which other threads may have locked, and ends by
    ``os._exit``.
    """
    global _filter
    if _python_warns and (_filter is None or _filter not in warnings.filters):
        # Bound to this module's name, so the user's own forks still warn. catch_warnings() puts an older list
        # of filters back, hence the look each time.
        warnings.filterwarnings("ignore", _WARNING, DeprecationWarning, r"multitask\._engine\.workers\.forking\Z")
        _filter = warnings.filters[0]
    pid = os.fork()
    if pid == 0:
        _forget_holds()
    return pid


def _forget_holds() -> None:
    """In a child that never returns into the code that forked, and so would never let the gate go."""
    with contextlib.suppress(RuntimeError):  # not held any more
        while True:
            gate.release()


def _after_in_child() -> None:
    gate.release()  # whatever holds there are still are those of the code that forked
    for fd in tuple(_owned):
        try:
            os.close(fd)
        except OSError:  # the user closed it
            pass
    _owned.clear()
    _unwanted.clear()
    for callback in tuple(_callbacks):
        try:
            callback()
        except Exception as error:
            warnings.warn(f"a fork callback failed: {error!r}", RuntimeWarning, stacklevel=1)


if hasattr(os, "register_at_fork"):
    # Methods written in C: no handler of a signal runs between them and the fork, whose exception would leave the
    # gate shut for ever.
    os.register_at_fork(before=gate.acquire, after_in_parent=gate.release, after_in_child=_after_in_child)
