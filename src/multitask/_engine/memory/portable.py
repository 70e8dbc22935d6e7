"""Small shared objects without the native core: a file for each, locks on ranges of bytes.

What it cannot promise: a Counter is exact, but not by one instruction, and takes its lock; each object needs two
descriptors (native: none); a lock is found free by looking again and again, so a waiter may be late by WAIT_SECONDS;
off Linux, nothing travels to a process that runs already.

Locks are POSIX record locks: they belong to a process, and the kernel drops them when it ends. Within the process a
``threading.RLock`` decides first.
Rule: a process has one descriptor of each file of locks and closes it only when no lock of it is left here: closing any
descriptor of a file drops all locks on it.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from multitask._engine import clock
from multitask._engine.memory import handles
from multitask._engine.memory.handles import Handle
from multitask._engine.memory.memory import Memory, make, new_file
from multitask._engine.workers import forking

try:
    import fcntl
except ImportError:  # one process only
    fcntl = None  # type: ignore[assignment]

WAIT_SECONDS = 0.01


def block(nbytes: int) -> Memory:
    """That many bytes of zeros, shared, as a writable buffer."""
    return make(nbytes)


class LockFile:
    """A file whose bytes are locks: a new one for each process that makes locks."""

    def __init__(self, fd: int, key: bytes) -> None:
        self.fd = fd
        self.key = key
        self.pid = os.getpid()
        self.next = itertools.count()
        self.users = 0  # locks in this process


_files: dict[bytes, LockFile] = {}
_mine: LockFile | None = None  # stays
_guard = threading.Lock()  # of both, and of the counts of users
_left: deque[LockFile] = deque()  # a lock of it has gone


def _use(key: bytes, opened: Callable[[], int], known: Callable[[], None]) -> LockFile:
    """The file of locks with this key, for one lock more; *opened* or *known* is called."""
    with _guard:
        file = _files.get(key)
        if file is None:
            file = _files[key] = LockFile(opened(), key)
        else:
            known()
        file.users += 1
    _close_unused()
    return file


def _close_unused() -> None:
    # Finalizers come here at any moment, also while this thread has the guard: then it is done on the way out.
    while _left and _guard.acquire(blocking=False):
        try:
            while _left:
                file = _left.popleft()
                file.users -= 1
                if not file.users and file is not _mine:
                    del _files[file.key]
                    os.close(file.fd)
                    handles.released(file.key)
        finally:
            _guard.release()


def _own_file() -> LockFile:
    global _mine
    if _mine is None or _mine.pid != os.getpid():
        _mine = LockFile(new_file("multitask-locks"), handles.new_key())
        _files[_mine.key] = _mine
    return _mine


class _Turn:
    """One lock in this process: which thread has it, how often."""

    def __init__(self, file: LockFile, at: int) -> None:
        self.file = file
        self.at = at
        self.renew()

    def renew(self) -> None:
        self.threads = threading.RLock()
        self.depth = 0


_turns: weakref.WeakValueDictionary[tuple[bytes, int], _Turn] = weakref.WeakValueDictionary()


@handles.travels
class RLock:
    """A re-entrant lock for threads and processes. When its holder dies, the next one gets it."""

    __slots__ = ("__weakref__", "_turn")

    def __init__(self, file: LockFile, at: int) -> None:
        """*file* is counted for it already."""
        self._turn = _turns.setdefault((file.key, at), _Turn(file, at))

    def __del__(self) -> None:
        if hasattr(self, "_turn"):
            _left.append(self._turn.file)
            _close_unused()

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it; False when it could not be had (at once, or within *timeout* seconds)."""
        turn = self._turn
        until = None if timeout is None else clock.monotonic() + max(0.0, timeout)
        patience = -1.0 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)
        if not (turn.threads.acquire(timeout=patience) if block else turn.threads.acquire(blocking=False)):
            return False
        try:
            got = bool(turn.depth) or _lock_range(turn, block, until)
        except BaseException:
            turn.threads.release()
            raise
        if got:
            turn.depth += 1
        else:
            turn.threads.release()
        return got

    def release(self) -> None:
        """Give it back. AssertionError, as the standard library's, when this thread does not hold it."""
        turn = self._turn
        if not turn.threads._is_owned():  # type: ignore[attr-defined]
            raise AssertionError("attempt to release recursive lock not owned by thread")
        turn.depth -= 1
        if not turn.depth and turn.file.fd >= 0 and fcntl is not None:
            fcntl.lockf(turn.file.fd, fcntl.LOCK_UN, 1, turn.at)
        turn.threads.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __reduce__(self) -> tuple[Any, ...]:
        turn = self._turn
        return _arrive, (tuple(handles.write(self, turn.file.fd, turn.file.key)), turn.at)

    def __repr__(self) -> str:
        return "<RLock in shared memory>"


def _lock_range(turn: _Turn, block: bool, until: float | None) -> bool:
    if fcntl is None or turn.file.fd < 0:
        return True
    pause = 0.0001
    while True:
        try:
            # Waiting in the kernel would swallow the timeout, and find deadlocks that are none: to it, all threads
            # of a process are one.
            fcntl.lockf(turn.file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, turn.at)
            return True
        except OSError as error:
            if not isinstance(error, (BlockingIOError, PermissionError)):
                raise
        if not block or (until is not None and clock.monotonic() >= until):
            return False
        time.sleep(pause)
        pause = min(pause * 2, WAIT_SECONDS)


def _arrive(handle: tuple[Any, ...], at: int) -> RLock:
    given = Handle(*handle)
    return RLock(_use(given.key, lambda: handles.borrow(given), lambda: handles.arrived(given)), at)


def lock() -> RLock:
    """A new lock."""
    file = _own_file()
    return RLock(_use(file.key, lambda: file.fd, lambda: None), next(file.next))


def _in_forked_child() -> None:
    """The parent's threads are not here, and what they held is not held by this process."""
    global _guard
    _guard = threading.Lock()
    for turn in list(_turns.values()):
        turn.renew()


forking.in_forked_child(_in_forked_child)
