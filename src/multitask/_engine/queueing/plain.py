"""The queue between threads in Python alone, for where nothing was compiled: what ``_native.local`` does, step by step.

Owner of everything in a PlainQueue: who holds its lock. A signal handler or a ``__del__`` may interrupt the owner
anywhere and call in again; its put goes to ``_later`` then, and the owner takes it from there when it is through.
Rule: somebody waits to get only while the queue is empty, and to put only while it is full. An item goes straight
into the hand of who has waited longest, so nobody is overtaken, and no wake-up is for nothing.
"""

from __future__ import annotations

import operator
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from multitask._engine import clock, patience
from multitask._engine.queueing.interface import Empty, Full, ShutDown
from multitask.errors import TimeoutError

NEVER, FOREVER = -2.0, -1.0
LONGEST_SECONDS = min(threading.TIMEOUT_MAX, 1e9)


def moment(block: bool, timeout: float | None) -> float:
    """When waiting ends, by the clock; NEVER: do not begin, FOREVER: it does not."""
    if not block:
        return NEVER
    if timeout is None:
        return FOREVER
    if not timeout >= 0:
        raise ValueError("'timeout' must be a non-negative number")
    return FOREVER if timeout > LONGEST_SECONDS else clock.monotonic() + timeout


class Waiter:
    """One thread that waits in *line*, which it has not joined yet; ``item`` is what it brings or was given."""

    __slots__ = ("called", "item", "line", "lock", "served", "thread")

    def __init__(self, line: deque[Waiter], item: Any = None) -> None:
        self.line = line
        self.item = item
        self.called = self.served = False
        self.thread = threading.get_ident()
        self.lock = threading.Lock()
        self.lock.acquire()

    def sleep(self, end: float) -> None:
        """Until called or *end*."""
        patience.acquire(self.lock, None if end == FOREVER else end - clock.monotonic())

    def call(self) -> None:
        self.called = True
        self.lock.release()

    def serve(self, item: Any = None) -> None:
        self.item = item
        self.served = True
        self.call()


class PlainQueue:
    """Everything of the queue between threads that is not the same in every flavour."""

    __slots__ = (
        "__weakref__",
        "_closed",
        "_gets",
        "_getters",
        "_items",
        "_joiners",
        "_later",
        "_lock",
        "_maxsize",
        "_puts",
        "_putters",
        "_readers",
        "_settled",
        "_shut",
        "_writers",
    )

    def __init__(self, maxsize: int | None = 0, *, shared: bool = False) -> None:
        if shared:
            raise ValueError("a queue between threads is not shared: Queue(maxsize) makes one that is")
        self._maxsize = max(0 if maxsize is None else operator.index(maxsize), 0)
        self._items: deque[Any] = deque()
        self._later: deque[Any] = deque()
        self._puts = self._gets = self._settled = 0
        self._shut = self._closed = False
        self._lock = threading.RLock()
        self._getters: deque[Waiter] = deque()
        self._putters: deque[Waiter] = deque()
        self._readers: deque[Waiter] = deque()
        self._writers: deque[Waiter] = deque()
        self._joiners: deque[Waiter] = deque()
        _queues.add(self)

    def _forked(self) -> None:
        """Of those who waited only this thread is here, if it did and a signal's handler has forked."""
        self._lock = threading.RLock()
        for line in (self._getters, self._putters, self._readers, self._writers, self._joiners):
            here = [waiter for waiter in line if waiter.thread == threading.get_ident()]
            line.clear()
            line.extend(here)

    # --- under the lock ----------------------------------------------------------------------------------

    def _settle(self) -> None:
        """What a handler has put while its own thread had the lock comes into the queue now."""
        while self._later and not self._inside():
            with self._lock:
                try:
                    item = self._later.popleft()
                except IndexError:  # another thread was faster
                    return
                self._add(item)

    def _inside(self) -> bool:
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]

    def _add(self, obj: Any) -> None:
        self._puts += 1
        if self._getters:
            self._gets += 1
            self._getters.popleft().serve(obj)
            return
        self._items.append(obj)
        self._call_all(self._readers)

    def _take(self) -> Any:
        item = self._items.popleft()
        self._gets += 1
        if self._putters:
            putter = self._putters.popleft()
            self._items.append(putter.item)
            self._puts += 1
            putter.serve()
        else:
            self._call_all(self._writers)
        return item

    def _put_back(self, item: Any) -> None:
        if self._getters:
            self._getters.popleft().serve(item)
            return
        self._gets -= 1
        self._items.appendleft(item)
        self._call_all(self._readers)

    @staticmethod
    def _call_all(line: deque[Waiter]) -> None:
        while line:
            line.popleft().call()

    def _is_full(self) -> bool:
        return 0 < self._maxsize <= len(self._items)

    def _refuse(self) -> None:
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        if self._shut:
            raise ShutDown

    # --- waiting -----------------------------------------------------------------------------------------

    def _leave(self, me: Waiter, failed: bool = False) -> None:
        """Out of the line; *failed*: a handler's error ends the call, and what it was given is in the queue again."""
        with self._lock:
            if not me.called:
                with suppress(ValueError):  # it had not joined yet
                    me.line.remove(me)
            elif failed and me.served and me.line is self._getters:
                self._put_back(me.item)
        if self._later:
            self._settle()

    def _sleep(self, me: Waiter, end: float) -> None:
        """Until *me* is called or the time is over."""
        if self._later:
            self._settle()
        me.sleep(end)
        if not me.called:
            self._leave(me)

    def _sleep_while(self, line: deque[Waiter], unmet: Callable[[], bool], timeout: float | None) -> bool:
        """Sleep in *line* as long as *unmet()*; False when the time was over first."""
        end = moment(True, timeout)
        while unmet():
            me = Waiter(line)
            try:
                with self._lock:
                    line.append(me)
                # Announce first, then look: a handler of this thread may have come in between.
                self._sleep(me, end if unmet() else NEVER)
            except BaseException:
                self._leave(me, failed=True)
                raise
            if not me.called:
                return not unmet()
        return True

    # --- one item ----------------------------------------------------------------------------------------

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        self._put(obj, moment(block, timeout))

    def put_nowait(self, obj: Any) -> None:
        self._put(obj, NEVER)

    def _put(self, obj: Any, end: float) -> None:
        if self._inside():
            self._refuse()
            self._later.append(obj)
            return
        me = None
        try:
            with self._lock:
                self._refuse()
                if not self._is_full():
                    self._add(obj)
                    return
                if end == NEVER:
                    raise Full
                me = Waiter(self._putters, obj)
                self._putters.append(me)
                if self._shut:  # by a handler, after the look
                    end = NEVER
            self._sleep(me, end)
        except BaseException:
            if me is not None:
                self._leave(me, failed=True)
            raise
        finally:
            if self._later:
                self._settle()
        if not me.served:
            raise ShutDown if self._shut else Full

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return self._get(moment(block, timeout))

    def get_nowait(self) -> Any:
        return self._get(NEVER)

    def _get(self, end: float) -> Any:
        me = None
        try:
            with self._lock:
                if self._closed:
                    self._refuse()
                if self._items:
                    return self._take()
                if self._shut:
                    raise ShutDown
                if end == NEVER:
                    raise Empty
                me = Waiter(self._getters)
                self._getters.append(me)
                if self._shut:  # by a handler, after the look
                    end = NEVER
            self._sleep(me, end)
        except BaseException:
            if me is not None:
                self._leave(me, failed=True)
            raise
        finally:
            if self._later:
                self._settle()
        if not me.served:
            raise ShutDown if self._shut else Empty
        return me.item

    # --- many --------------------------------------------------------------------------------------------

    def put_many(self, iterable: Iterable[Any], block: bool = True, timeout: float | None = None) -> int:
        done = 0
        try:
            end = moment(block, timeout)
            for obj in iterable:
                self._put(obj, end)
                done += 1
        except BaseException as error:
            error.done = done  # type: ignore[attr-defined]
            raise
        return done

    def get_many(self, most: int | None = None, block: bool = True, timeout: float | None = None) -> list[Any]:
        limit = None if most is None else operator.index(most)
        if limit is not None and limit < 1:
            raise ValueError("'most' must be at least 1")
        got = [self._get(moment(block, timeout))]
        with self._lock:
            while self._items and (limit is None or len(got) < limit):
                got.append(self._take())
        return got

    # --- how it stands -----------------------------------------------------------------------------------

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @property
    def put_count(self) -> int:
        return self._puts

    @property
    def got_count(self) -> int:
        return self._gets

    @property
    def unfinished_tasks(self) -> int:
        return self._puts - self._settled

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def is_shutdown(self) -> bool:
        return self._shut

    def qsize(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        return not self._items

    def full(self) -> bool:
        return self._is_full()

    def _waiting(self) -> tuple[int, int]:
        return len(self._getters) + len(self._readers), len(self._putters) + len(self._writers)

    def wait_readable(self, timeout: float | None = None) -> bool:
        return self._sleep_while(self._readers, lambda: not (self._items or self._shut), timeout)

    def wait_writable(self, timeout: float | None = None) -> bool:
        return self._sleep_while(self._writers, lambda: self._is_full() and not self._shut, timeout)

    # --- work that is done -------------------------------------------------------------------------------

    def task_done(self, count: int = 1) -> None:
        done = operator.index(count)
        if done < 1:
            raise ValueError("task_done() of less than one")
        with self._lock:
            if done > self._puts - self._settled:
                raise ValueError("task_done() called too many times")
            self._settled += done
            if self._settled == self._puts:
                self._call_all(self._joiners)

    def join(self, timeout: float | None = None) -> None:
        if not self._sleep_while(self._joiners, lambda: self._settled < self._puts, timeout):
            raise TimeoutError(f"{self._puts - self._settled} items were not dealt with in {timeout} s")

    # --- the end -----------------------------------------------------------------------------------------

    def shutdown(self, immediate: bool = False) -> None:
        dropped: deque[Any] = deque()
        with self._lock:
            self._shut = True
            # First everybody out of the lines: nobody who waits to put moves up into what is dropped.
            self._call_all(self._getters)
            self._call_all(self._putters)
            if immediate:
                dropped, self._items = self._items, dropped
                self._gets += len(dropped)
                self._settled = min(self._settled + len(dropped), self._puts)
                if self._settled == self._puts:
                    self._call_all(self._joiners)
            self._call_all(self._readers)
            self._call_all(self._writers)

    def close(self) -> None:
        self._closed = True


_queues: weakref.WeakSet[PlainQueue] = weakref.WeakSet()


def _forked() -> None:
    for each in list(_queues):
        each._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
