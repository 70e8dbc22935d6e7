"""``share(obj)`` for what is no array: one pickle in shared memory, read once by each process that needs it.

    sharer                                     a worker
      seal ──► sealed file ◄── maps ────────── Shared (arrives with each task)
                  ▲                               │ .value, the first time: unpickled
                  └── waits until no Shared ───── Kept: the value, for all tasks of this process
                      is left anywhere (flock)

A Shared is a *user*: its process holds the file by a description with a shared flock(2). What a process keeps for later
tasks is none: it maps the file by a description without a lock, and a thread of its own waits there for an exclusive
lock, which the kernel grants when the last Shared, wherever it is, has gone or was killed. Then the value goes.
"""

from __future__ import annotations

import _thread
import os
import threading
import weakref
from typing import Any, Generic, TypeVar

from multitask._engine import envelope
from multitask._engine.memory import handles, memory
from multitask._engine.memory.memory import Memory, aligned
from multitask._engine.workers import forking

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")


class Kept:
    """The value in this process: not unpickled, or unpickled once."""

    def __init__(self, block: Memory, lengths: tuple[int, ...]) -> None:
        self._block: Memory | None = block
        self._lengths = lengths
        self._lock = threading.RLock()
        self._value: object = None

    def value(self) -> object:
        if self._block is not None:
            with self._lock:
                if self._block is not None:
                    value = self._unpickled(self._block)
                    if self._block is not None:  # else a finalizer in this thread has asked for it meanwhile
                        self._value = value
                        self._block = None  # what lies in it is held by the value
        return self._value

    def _unpickled(self, block: Memory) -> object:
        whole = memoryview(block)
        parts = []
        at = 0
        for length in self._lengths:
            at = aligned(at)
            parts.append(whole[at : at + length])
            at += length
        return envelope.open_sealed(parts[0], parts[1:])

    def forked(self) -> None:
        self._lock = threading.RLock()


_here: weakref.WeakValueDictionary[bytes, Kept] = weakref.WeakValueDictionary()
_kept: dict[bytes, Kept] = {}  # what arrived here, as long as any process has a Shared of it


class Shared(Generic[T]):
    """An object that was pickled once and is unpickled once in each process that asks for its ``value``.

    Made by ``share(obj)``. Travels to workers as a handle of a few bytes. A worker keeps the value for its later tasks
    as long as any process has the Shared. Buffers in it (of arrays, say) are not copied: they are read-only views of
    the shared memory.
    """

    __slots__ = ("__weakref__", "_block", "_content", "_kept", "_lengths", "_title")

    def __init__(self, block: Memory, lengths: tuple[int, ...], title: str, kept: Kept, content: object = None) -> None:
        self._block = block
        self._lengths = lengths
        self._title = title
        self._kept = kept
        self._content = content

    @property
    def value(self) -> T:
        """The object, a copy of what was given to ``share``: the same one each time in this process.

        What is changed in it is changed for this process only.
        """
        return self._kept.value()  # type: ignore[return-value]

    @property
    def nbytes(self) -> int:
        """How many bytes of shared memory it takes."""
        return self._block.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self._block, self._lengths, self._title)

    def __repr__(self) -> str:
        return f"<Shared {self._title}, {self._block.nbytes:,} bytes>"


def share(obj: T) -> Shared[T]:
    """Pickle *obj* into shared memory. Raises CannotTravel with the path to what cannot be pickled."""
    content: list[object] = []
    with handles.keeping(content):  # what is shared inside of it stays as long as this Shared
        data, buffers = envelope.seal(obj, "shared")
    parts: list[Any] = [data, *buffers]
    lengths = tuple(memoryview(part).nbytes for part in parts)
    total = 0
    for length in lengths:
        total = aligned(total) + length
    block = memory.make(total, parts, writable=False)
    kept = _here[block.key] = Kept(block, lengths)
    return Shared(block, lengths, type(obj).__name__, kept, content)


def _arrive(block: Memory, lengths: tuple[int, ...], title: str) -> Shared[Any]:
    kept = _here.get(block.key)
    if kept is None:
        kept = _keep(block, lengths)
    return Shared(block, lengths, title, kept)


def _keep(block: Memory, lengths: tuple[int, ...]) -> Kept:
    """Keep the value for whatever comes later, until no process has a Shared of it."""
    try:
        kept = Kept(memory.uncounted(block), lengths)
        fd = memory.open_again(block)
    except OSError:  # nobody would tell when that is
        return Kept(block, lengths)
    first = _here.setdefault(block.key, kept)
    if first is kept:
        _kept[block.key] = kept
        _thread.start_new_thread(_wait, (fd, block.key))
    else:
        os.close(fd)
    return first


def _wait(fd: int, key: bytes) -> None:
    """In a thread of its own: until no Shared is left anywhere."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError:  # no memory for a lock: from here on it is kept by those who have it
        pass
    kept = _kept.pop(key, None)
    os.close(fd)  # before the value goes, which may run code of the user's
    handles.released(key)
    del kept


def _in_forked_child() -> None:
    """The threads that wait are the parent's: what is kept here is kept by those who have it."""
    _kept.clear()
    for kept in list(_here.values()):
        kept.forked()


forking.in_forked_child(_in_forked_child)
