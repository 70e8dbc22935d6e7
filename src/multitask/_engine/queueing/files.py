"""FileQueue: the queue between processes where the native one is not to be had (``MULTITASK_NATIVE=0``, no memfd).

A temporary file without a name holds the items (``filelog``), a file lock orders those who use it (``filelock``), and
three pipes tell those who wait (``level``): something is in it, there is room, all is done. No thread, no process.

Of G7 it keeps: ``put`` returns when the item is in the queue; no thread has to be joined; a process that is killed at
any moment leaves no torn item, none twice, and the lock open. It cannot keep, or keeps less well:

* Where files have no locks that belong to a process, the lock is the stdlib's semaphore: a process that is killed while
  it holds it leaves the queue shut, and the queue travels to a Process when that starts, not later.
* Ctrl-C that arrives in ``get`` after the item left the queue and before the caller has it loses that item.
* A process that is stopped (SIGSTOP) while it has the lock, which it holds for microseconds, stops the others; a
  ``timeout`` and ``block=False`` end that wait (``PATIENCE_SECONDS`` at the latest after they were due), nothing else.
* What is awaited is noticed within ``LOOK_AGAIN_SECONDS`` if the process that should have told died just before.
* Items are on the disk (or wherever temporary files lie), not in memory.
* A signal handler or finalizer that uses the queue while its own thread is inside of it gets RuntimeError.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from multitask._engine import clock
from multitask._engine.queueing import filelock, travel
from multitask._engine.queueing.filelog import Log, Record, State, new_file, record
from multitask._engine.queueing.interface import Empty, Full, Queue, ShutDown, bound, closed_error
from multitask._engine.queueing.level import Level

LOOK_AGAIN_SECONDS = 1.0
PATIENCE_SECONDS = 1.0
TRIES_AT_ONCE = 30  # for a lock that is held for microseconds
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.00005, 0.002
BATCH_ITEMS, BATCH_BYTES = 256, 1 << 20
ALL = 1 << 62

BUSY = object()  # _step: the lock was taken all the time


class _Parts:
    """The descriptors of a queue, closed with it; a class of its own because a queue may be part of a cycle."""

    __slots__ = ("done", "items", "lent", "lock", "log", "room")

    def __init__(self, fd: int, levels: Iterable[Level], semaphore: Any) -> None:
        self.log = Log(fd)
        self.items, self.room, self.done = levels
        self.lent: tuple[bytes, int] | None = None  # key and number of descriptors, once they have travelled
        self.lock = filelock.best(fd) if semaphore is None else filelock.SemaphoreLock(fd, semaphore)

    def levels(self) -> tuple[Level, Level, Level]:
        return self.items, self.room, self.done

    def __del__(self) -> None:
        self.log.close()
        os.close(self.lock.fd)
        for level in self.levels():
            level.close()
        if self.lent:
            travel.released(*self.lent)


class FileQueue(Queue):
    """See the top of the file, and ``Queue``."""

    __slots__ = ("__weakref__", "_closed", "_inside", "_key", "_log", "_mutex", "_parts")

    def __init__(self, maxsize: int | None = 0, *, shared: bool = True) -> None:
        fd = new_file(bound(maxsize))
        self._begin(os.urandom(16), fd, [Level.new() for _ in range(3)], None)
        _, room, done = self._parts.levels()
        room.set(True)
        done.set(True)
        _open[self._key] = self

    def _begin(self, key: bytes, fd: int, levels: Iterable[Level], semaphore: Any) -> None:
        self._key = key
        self._closed = self._inside = False
        self._mutex = threading.RLock()
        self._parts = _Parts(fd, levels, semaphore)
        self._log = self._parts.log

    # --- under both locks ------------------------------------------------------------------------------------

    def _step(self, act: Callable[..., Any], *args: Any, until: float | None = None) -> Any:
        """``act(state, *args)`` under the lock; BUSY when that is still taken at *until*."""
        pause = FIRST_PAUSE_SECONDS
        tries = 0
        while True:
            with self._mutex:
                if self._inside:
                    raise RuntimeError(
                        f"{self!r} is used by a signal handler or finalizer that interrupted its own use"
                    )
                try:
                    self._inside = True
                    if self._parts.lock.attempt():
                        return self._act(act, args)
                finally:
                    # Also when the lock was not had: an interrupt may come between having it and knowing it.
                    self._parts.lock.release()
                    self._inside = False
            if until is not None and clock.monotonic() >= until:
                return BUSY
            tries += 1
            if tries < TRIES_AT_ONCE:
                time.sleep(0)
                continue
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _act(self, act: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        log = self._log
        if log.busy:
            self._repair()
        log.busy = True
        result = act(log.look(), *args)
        log.busy = False  # not after an error: the next one looks after the levels
        return result

    def _repair(self) -> None:
        state = self._log.look()
        for level, on in zip(self._parts.levels(), self._levels(state), strict=True):
            level.renew(on)
        self._log.cut(self._parts.lock.fd, state)

    def _levels(self, state: State) -> tuple[bool, bool, bool]:
        """What the three levels have to be: items, room, done."""
        bound = self._log.maxsize
        return (
            bool(state.shut) or state.size > 0,
            bool(state.shut) or not bound or state.size < bound,
            state.unfinished == 0,
        )

    def _tell(self, old: State, new: State) -> None:
        for level, was, on in zip(self._parts.levels(), self._levels(old), self._levels(new), strict=True):
            if was != on:
                level.set(on)

    def _append(self, state: State, records: list[Record]) -> int:
        """Put as many of *records* as there is room for; -1: shut down."""
        if state.shut:
            return -1
        if self._log.maxsize:
            records = records[: max(0, self._log.maxsize - state.size)]
        if not records:
            return 0
        tail = self._log.append(self._parts.lock.fd, state.tail, records)
        count = len(records)
        new = state._replace(tail=tail, put=state.put + count, unfinished=state.unfinished + count)
        self._log.commit(new)
        self._tell(state, new)
        return count

    def _take(self, state: State, most: int) -> list[list[memoryview]] | None:
        """Remove up to *most* items; None: there is none and there will be none."""
        if not state.size:
            return None if state.shut else []
        fd = self._parts.lock.fd
        found, head = self._log.take(fd, state.head, state.tail, most)
        new = state._replace(head=head, got=state.got + len(found))
        self._tell(state, self._log.leave(fd, new))
        return found

    def _done(self, state: State, count: int) -> None:
        if count > state.unfinished:
            raise ValueError("task_done() called too many times")
        new = state._replace(unfinished=state.unfinished - count)
        self._log.commit(new)
        self._tell(state, new)

    def _shut(self, state: State, immediate: bool) -> None:
        new = state._replace(shut=1)
        if immediate:
            unfinished = max(0, state.unfinished - state.size)
            new = new._replace(head=state.tail, got=state.put, unfinished=unfinished)
        self._tell(state, self._log.leave(self._parts.lock.fd, new))

    # --- the public methods ----------------------------------------------------------------------------------

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        self._check_open()
        self._put_all([_encode(obj)], _deadline(block, timeout))

    def put_many(self, iterable: Iterable[Any], block: bool = True, timeout: float | None = None) -> int:
        self._check_open()
        until = _deadline(block, timeout)
        count = 0
        try:
            for batch in _batches(iterable):
                count = self._put_all(batch, until, count)
        except BaseException as error:
            if getattr(error, "done", None) is None:
                _mark(error, "done", count)
            raise
        return count

    def _put_all(self, batch: list[Record], until: float | None, count: int = 0) -> int:
        """Put *batch* in as many steps as it takes; returns *count* plus their number. Errors carry it as ``done``."""
        while batch:
            done = self._step(self._append, batch, until=_patience(until))
            if done is BUSY:
                raise _mark(Full(), "done", count)
            if done < 0:
                raise _mark(ShutDown(), "done", count)
            count += done
            batch = batch[done:]
            if batch:
                self._wait(self._parts.room, until, _mark(Full(), "done", count))
        return count

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        (parts,) = self._get_some(1, block, timeout)
        return _decode(parts)

    def get_many(self, most: int | None = None, block: bool = True, timeout: float | None = None) -> list[Any]:
        if most is not None and most < 1:
            raise ValueError("most must be at least 1")
        items: list[Any] = []
        failure = None
        for parts in self._get_some(ALL if most is None else most, block, timeout):
            try:
                items.append(_decode(parts))
            except BaseException as error:
                failure = failure or error
        if failure is not None:
            raise _mark(failure, "items", items)
        return items

    def _get_some(self, most: int, block: bool, timeout: float | None) -> list[list[memoryview]]:
        self._check_open()
        until = _deadline(block, timeout)
        while True:
            found = self._step(self._take, most, until=_patience(until))
            if found is BUSY:
                raise Empty
            if found is None:
                raise ShutDown
            if found:
                return found  # type: ignore[no-any-return]
            self._wait(self._parts.items, until, Empty())

    def _wait(self, level: Level, until: float | None, over: Exception) -> None:
        """Until *level* may be on; raises *over* when the time is."""
        if until is None:
            level.wait(LOOK_AGAIN_SECONDS)
            return
        rest = until - clock.monotonic()
        if rest <= 0:
            raise over
        level.wait(min(rest, LOOK_AGAIN_SECONDS))

    def wait_readable(self, timeout: float | None = None) -> bool:
        return self._wait_until(0, timeout)

    def wait_writable(self, timeout: float | None = None) -> bool:
        return self._wait_until(1, timeout)

    def _wait_until(self, which: int, timeout: float | None) -> bool:
        """Whether what level number *which* tells of came true in time."""
        until = _deadline(True, timeout)
        over = Full()
        while not self._levels(self._log.look())[which]:
            try:
                self._wait(self._parts.levels()[which], until, over)
            except Full:
                return False
        return True

    def task_done(self, count: int = 1) -> None:
        if count < 1:
            raise ValueError("count must be at least 1")
        self._step(self._done, count)

    def join(self, timeout: float | None = None) -> None:
        if not self._wait_until(2, timeout):
            from multitask.errors import TimeoutError

            raise TimeoutError(f"{self._log.look().unfinished} items of {self!r} are not done after {timeout} s")

    def shutdown(self, immediate: bool = False) -> None:
        self._step(self._shut, immediate)

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error(self)

    # --- how it stands; never waits --------------------------------------------------------------------------

    @property
    def maxsize(self) -> int:
        return self._log.maxsize

    @property
    def put_count(self) -> int:
        return self._log.look().put

    @property
    def got_count(self) -> int:
        return self._log.look().got

    @property
    def unfinished_tasks(self) -> int:
        return self._log.look().unfinished

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def is_shutdown(self) -> bool:
        return bool(self._log.look().shut)

    def qsize(self) -> int:
        return self._log.look().size

    # --- travel ----------------------------------------------------------------------------------------------

    def __reduce__(self) -> Any:
        lock, levels = self._parts.lock, self._parts.levels()
        descriptors = [lock.fd, *(fd for level in levels for fd in level.descriptors)]
        handles = travel.send(repr(self), self._key, descriptors, lock.handle())
        if handles.tickets:
            self._parts.lent = (self._key, len(descriptors))
        return _arrive, (self._key, handles, [len(level.descriptors) for level in levels])


_open: weakref.WeakValueDictionary[bytes, FileQueue] = weakref.WeakValueDictionary()


def _arrive(key: bytes, handles: travel.Handles, ends: list[int]) -> FileQueue:
    """The one object in this process for the queue of that key."""
    known = _open.get(key)
    if known is not None:
        travel.refuse(handles)
        if handles.tickets:
            known._parts.lent = (key, 1 + sum(ends))
        return known
    fd, *rest = travel.receive(handles)
    levels = []
    for count in ends:
        levels.append(Level(rest[:count]))
        del rest[:count]
    made = FileQueue.__new__(FileQueue)
    made._begin(key, fd, levels, handles.lock)
    if handles.tickets:
        made._parts.lent = (key, 1 + sum(ends))
    # Another thread may have been as quick; one of the two objects goes.
    return _open.setdefault(key, made)


def _forked() -> None:
    for queue in list(_open.values()):
        queue._mutex = threading.RLock()
        queue._inside = False
        queue._parts.lock.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


# --- items ------------------------------------------------------------------------------------------------


def _encode(obj: Any) -> Record:
    from multitask._engine import envelope

    return record(*envelope.seal(obj))


def _decode(parts: list[memoryview]) -> Any:
    from multitask._engine import envelope

    return envelope.open_sealed(parts[0], parts[1:])


def _batches(iterable: Iterable[Any]) -> Iterator[list[Record]]:
    """The items, ready to be written; after an error all that came before it, then the error."""
    batch: list[Record] = []
    size = 0
    try:
        for obj in iterable:
            batch.append(_encode(obj))
            size += sum(memoryview(piece).nbytes for piece in batch[-1])
            if len(batch) >= BATCH_ITEMS or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _mark(error: BaseException, name: str, value: Any) -> Any:
    try:
        setattr(error, name, value)
    except AttributeError:  # an exception with slots
        pass
    return error


# --- time -------------------------------------------------------------------------------------------------


def _deadline(block: bool, timeout: float | None) -> float | None:
    if not block:
        return clock.monotonic()
    return None if timeout is None else clock.monotonic() + max(timeout, 0.0)


def _patience(until: float | None) -> float | None:
    """When to stop trying for the lock: it is held for microseconds, so none of them gives up at once."""
    return None if until is None else max(until, clock.monotonic() + PATIENCE_SECONDS)
