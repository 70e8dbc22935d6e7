"""The reading side of ``imap``, ``imap_unordered`` and ``stream``: results one by one.

Owner: the consumer, or several that share the iterator (one at a time, by ``_turn``). The pulling side is Flow.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from multitask._engine import clock, patience
from multitask._engine.reraise import raise_again
from multitask.errors import TimeoutError

if TYPE_CHECKING:
    from multitask._engine.callbacks import Callbacks
    from multitask._engine.flow import Flow
    from multitask._engine.progress import Progress
    from multitask.task import Task

T = TypeVar("T")


class Stream(Iterator[T]):
    """Iterator over results; what ``imap``, ``imap_unordered`` and ``stream`` return.

    ``next(timeout)`` as in multiprocessing. ``close()``, or dropping the iterator, cancels what still waits.
    A failed call raises its error from ``next()``; the ``next()`` after that goes on with the items behind it.
    """

    def __init__(self, flow: Flow, callbacks: Callbacks, owner: object, progress: Progress | None = None) -> None:
        self._flow = flow
        self._core = flow.core
        self._callbacks = callbacks
        self._owner = owner  # the pool: it must not be collected while somebody iterates
        self._progress = progress
        self._turn = threading.Lock()
        self._rest: list[T] = []  # of the chunk that is being yielded, last one first
        self._yielded = 0  # items
        self._taken = 0  # tasks
        # Grants come in batches: otherwise each next() would take the lock and wake the feeder for one item.
        self._stride = max(1, flow.buffer // 4)
        self._next_grant = 0
        self._maker = os.getpid()

    def __iter__(self) -> Stream[T]:
        return self

    def __next__(self) -> T:
        return self.next()

    def next(self, timeout: float | None = None) -> T:
        """The next result; ``multitask.TimeoutError`` when there is none within *timeout* seconds."""
        with self._turn:
            if self._yielded >= self._next_grant:
                self._grant()
            if self._rest:
                self._count(1)
                return self._rest.pop()
            task = self._take(timeout)
            ok, value = task._outcome()
            size = self._flow.chunk
            if ok and size == 1:
                self._count(1)
                return value  # type: ignore[no-any-return]
            if ok:
                value.reverse()
                self._rest = value
                self._count(1)
                return self._rest.pop()
            self._flow.complained = True
            self._count(size)  # the items of a failed chunk share its fate
        self._fail(task, value)

    def _count(self, items: int) -> None:
        self._yielded += items
        if self._progress is not None:
            self._progress.advance(items)

    def _fail(self, task: Task[Any], error: BaseException) -> NoReturn:
        try:
            raise_again(task, error)
        finally:
            del self, task, error

    def _grant(self) -> None:
        self._next_grant = self._yielded + self._stride
        self._flow.grant(self._yielded)

    def _take(self, timeout: float | None) -> Task[Any]:
        """The next settled task: the one at the head, or any when the order does not matter."""
        flow = self._flow
        line, basket = flow.line, flow.basket
        until = None if timeout is None else clock.monotonic() + timeout
        while not flow.closed:
            target: Any = None
            if basket is None:
                if line:
                    target = line[0]
                    if target._settled:
                        self._taken += 1
                        return line.popleft()
            elif basket.ready:
                self._taken += 1
                return basket.ready.popleft()  # type: ignore[no-any-return]
            elif flow.submitted > self._taken:
                target = basket
            left = None if until is None else until - clock.monotonic()
            if target is None:
                self._await_feeder(left)
            elif not self._core.wait(target, left):
                raise self._too_late(timeout)
        raise StopIteration

    def _await_feeder(self, timeout: float | None) -> None:
        """Nothing is on its way: wait for the feeder, or raise what ended the stream."""
        flow = self._flow
        self._grant()
        with flow.changed:
            flow.hungry = True
            try:
                if flow.submitted > self._taken:
                    return
                if not flow.finished:
                    piece = patience.piece(timeout)
                    if not flow.changed.wait(piece) and piece is not None and timeout is not None and piece >= timeout:
                        raise self._too_late(timeout)
                    return
            finally:
                flow.hungry = False
            error, flow.error = flow.error, None
        if self._progress is not None:
            self._progress.finish()
        if error is None:
            raise StopIteration
        try:
            raise error
        finally:
            del error

    def _too_late(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"no result of {self!r} within {timeout} s")

    def close(self) -> None:
        """Drop the rest: what waits is cancelled, nothing more is pulled."""
        if self._progress is not None:
            self._progress.finish()
        self._rest = []
        self._flow.close()

    def __del__(self) -> None:
        flow = self.__dict__.get("_flow")
        if flow is None or flow.closed or (flow.finished and flow.submitted == self._taken):
            return
        if os.getpid() != self._maker:  # dropped in a forked child, before its hooks: pool and items are the parent's
            return
        # A finalizer may run in the middle of anything, under any lock: another thread does the work.
        self._callbacks.later(flow.close)

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        flow = self._flow
        state = "closed" if flow.closed else "all pulled" if flow.finished else "pulling"
        return f"<Stream {state}, {flow.pulled} pulled, {self._yielded} yielded>"
