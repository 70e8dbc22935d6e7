"""How shared memory travels: the handle in a pickle, and who keeps the memory until the handle has arrived.

kept      an argument of a pool's task, or of a child that multiprocessing starts: the sender's own object is kept,
          until the task is settled or the child's process object has gone. Nothing is counted, so a handle that
          is never read costs nothing.
counted   everything else (an item in a queue, a result): the handle counts as a user until it is read once. One
          that is never read keeps its memory until the root of the family ends.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from multitask._engine import family
from multitask._engine.byvalue.handles import StandIn
from multitask._engine.byvalue.reducers import reducers
from multitask._engine.workers import forking

try:
    import fcntl
except ImportError:  # nothing travels there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from multitask._engine.byvalue.pickling import ValuePickler

Key = bytes
K = TypeVar("K")


def new_key() -> Key:
    """A name for one piece of memory that no other has."""
    return os.urandom(16)


class Handle(NamedTuple):
    """What lies in a pickle: where the descriptor can be borrowed, and whether the handle counts as a user."""

    key: Key
    ticket: tuple[Any, ...]
    counted: bool
    source: tuple[int, int, int]  # the sender's process, its descriptor, the file's inode


_tickets: dict[Key, tuple[Any, ...]] = {}  # of what this process uses: valid as long as anybody does
_local = threading.local()
_spawned: dict[int, list[object]] = {}  # what a child is started with, by the id of multiprocessing's object for it


def write(thing: object, fd: int, key: Key) -> Handle:
    """A handle to the file *fd*, of which *thing* is a use in this process."""
    kept = _keeper()
    ticket = _tickets.get(key)
    source = (os.getpid(), fd, os.fstat(fd).st_ino)
    if kept is None:
        ticket = _tickets[key] = tuple(family.lend(fd, key))
        return Handle(key, ticket, True, source)
    kept.append(thing)
    if ticket is None:
        lent = family.lend(fd, key)
        family.forgo(lent)  # it can be borrowed while anybody uses it
        ticket = _tickets[key] = tuple(lent)
    return Handle(key, ticket, False, source)


def borrow(handle: Handle) -> int:
    """A descriptor for it, with an open file description of its own. Raises CannotTravel when it is gone."""
    ticket = family.Ticket(*handle.ticket)
    fd = _at_the_sender(handle.source)
    if fd is None:
        fd = family.borrow(ticket, counted=handle.counted)
    else:
        try:
            family.attach(ticket)
        except OSError:  # the root has ended: it works on without
            pass
        arrived(handle)
    _tickets[handle.key] = handle.ticket
    return fd


def _at_the_sender(source: tuple[int, int, int]) -> int | None:
    """The sender's own file, opened through /proc while it has it: that wakes nobody. None where that cannot be."""
    pid, number, inode = source
    path = f"/proc/{pid}/fd/{number}"
    try:
        if os.stat(path).st_ino != inode:  # the number, or even the process, is another one by now
            return None
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    found = os.fstat(fd)
    if found.st_ino == inode and found.st_dev == _memory_device():
        fcntl.flock(fd, fcntl.LOCK_SH)  # a user from here on
        return fd
    os.close(fd)
    return None


@cache
def _memory_device() -> int:
    """Where the files of memfd_create live: their inodes are unique there. -1: there are none."""
    if not hasattr(os, "memfd_create"):
        return -1
    fd = os.memfd_create("multitask-device")
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def arrived(handle: Handle) -> None:
    """The handle was read where its memory is mapped already."""
    if handle.counted:
        family.forgo(family.Ticket(*handle.ticket))


class Tie:
    """Tells the family that a use has ended, when it is dropped."""

    __slots__ = ("key",)

    def __init__(self, key: Key) -> None:
        self.key = key

    def __del__(self) -> None:
        released(self.key)


def released(key: Key) -> None:
    """This process uses it no more: unmapped and closed. For finalizers."""
    _tickets.pop(key, None)
    family.release(key)


def travels(kind: type[K]) -> type[K]:
    """Objects of exactly this class, whose ``__reduce__`` writes a handle, are kept by tasks they are sent with."""
    reducers[kind] = _reduce
    return kind


def _reduce(pickler: ValuePickler, obj: Any) -> Any:
    writer: Any = pickler.traveller
    if not getattr(writer, "keeps", False):
        return NotImplemented
    kept = Keepsake()
    with keeping(kept.things):
        reduced = obj.__reduce__()
    writer.keep(pickler, kept)
    return reduced


class Keepsake:
    """What a task keeps."""

    __slots__ = ("__weakref__", "things")

    def __init__(self) -> None:
        self.things: list[object] = []


@contextmanager
def keeping(things: list[object]) -> Iterator[None]:
    """What this thread pickles in here is kept by being put into *things*."""
    before = getattr(_local, "things", None)
    _local.things = things
    try:
        yield
    finally:
        _local.things = before


def _keeper() -> list[object] | None:
    """Where to put what must live until the handle has arrived; None: nobody will say when that is."""
    kept: list[object] | None = getattr(_local, "things", None)
    if kept is not None:
        return kept
    context = sys.modules.get("multiprocessing.context")
    child = None if context is None else context.get_spawning_popen()
    if child is None or isinstance(child, StandIn):  # no child is being started: a pickle is
        return None
    number = id(child)
    if number not in _spawned:
        _spawned[number] = []
        weakref.finalize(child, _spawned.pop, number, None).atexit = False
    return _spawned[number]


forking.in_forked_child(_spawned.clear)  # the child is none of their senders
