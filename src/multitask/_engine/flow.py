"""The pulling side of ``imap`` and ``stream``: items out of an iterable, tasks into the pool, never too many.

    iterable ── pull ──► items ── submit ──► tasks ── settle ──► consumer's next()   (streams.py)
               (in the consumer for builtin     (ordered: a line;
                containers, on a feeder          unordered: a basket)
                thread for the rest)

Rule: pulled - yielded <= buffer at any moment. An item counts as yielded when the consumer comes back for the
next one: until then nobody can know that it has arrived.
The feeder knows the Flow only, not the Stream, so that a Stream nobody uses any more is collected and ends it.
Nobody holds ``changed`` while a user's iterator runs, except for ``kind="inline"``.
"""

from __future__ import annotations

import collections
import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from multitask import _native
from multitask._engine import patience, taskbase
from multitask._engine.core import CALL, CHUNK, Core, Options
from multitask.errors import PoolClosed

if TYPE_CHECKING:
    from multitask.task import Task

# Iterating these runs no code of the user's, cannot block, and comes to an end.
BUILTIN = frozenset(
    {list, tuple, range, str, bytes, bytearray, dict, set, frozenset, collections.deque}
    | {type({}.keys()), type({}.values()), type({}.items())}
)
EVERYTHING = 1 << 62


def make_basket(core: Core) -> Any:
    """A Basket of the same make as *core*."""
    if _native.available and isinstance(core, _native.core.NativeCore):
        return _native.core.Basket(core)
    return taskbase.Basket(core)


class Plan:
    """How a stream is to run; checked here."""

    __slots__ = ("buffer", "chunk", "inline", "ordered")

    def __init__(self, ordered: bool, chunk: int, buffer: int | None, processes: int, kind: str) -> None:
        if chunk < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunk}")
        if buffer is not None and buffer < 1:
            raise ValueError(f"buffer must be at least 1, not {buffer}: it is how many items are pulled ahead")
        self.inline = kind == "inline"  # the caller does all the work, so it pulls too, one chunk at a time
        if buffer is None and self.inline:
            buffer = chunk
        if buffer is None:
            # Deep enough to keep the lanes full: about 64 calls wait in the lane of each worker.
            buffer = max(256, 128 * processes) if chunk == 1 else chunk * max(8, 4 * processes)
        self.ordered = ordered
        self.buffer = buffer
        self.chunk = min(chunk, buffer)


class Flow:
    """One iterable on its way into the pool."""

    def __init__(
        self, core: Core, fn: Callable[[Any], Any], options: Options | None, iterable: Iterable[Any], plan: Plan
    ) -> None:
        self.core = core
        self.fn = fn
        self.options = options
        self.finite = type(iterable) in BUILTIN
        self.inline = self.finite or plan.inline
        self.iterator: Iterator[Any] | None = iter(iterable)
        self.chunk = plan.chunk
        self.buffer = plan.buffer
        self.line: collections.deque[Task[Any]] = collections.deque()  # ordered: tasks in the order of the items
        self.basket = None if plan.ordered else make_basket(core)
        self.hungry = False  # the consumer waits for the feeder
        # Reentrant: a Stream may be collected, and so touch its Flow, in a thread that holds the lock.
        self.changed = threading.Condition(threading.RLock())
        self.pulled = 0  # items
        self.submitted = 0  # tasks
        self.allowed = plan.buffer  # what `pulled` may come to
        self.finished = False  # nothing more will be submitted
        self.closed = False  # nobody wants the results
        self.complained = False  # the consumer has got the error of a call
        self.error: BaseException | None = None  # what ended it; the consumer gets it after the results before it
        self.on_finish: Callable[[Flow], object] | None = None

    def start(self) -> None:
        """Begin to pull: here and now from a builtin container, otherwise on a feeder thread."""
        if self.inline:
            self.pull()
        else:
            threading.Thread(target=_feed, args=(self,), name="multitask-feeder", daemon=True).start()

    def grant(self, yielded: int) -> None:
        """The consumer has got *yielded* items: more may be pulled."""
        if self.finished:
            return
        with self.changed:
            self.allowed = max(self.allowed, yielded + self.buffer)
            if not self.inline:
                self.changed.notify_all()
        if self.inline:
            self.pull()

    def pull(self) -> None:
        """Pull and submit in this thread as much as is allowed."""
        with self.changed:
            if self.finite and self.chunk == 1:
                self._pull_items()
                return
            while not self.finished and self.allowed - self.pulled >= self.chunk:
                self.step()

    def _pull_items(self) -> None:
        """``pull`` for what most streams are, a builtin container and no chunks: one loop."""
        room = self.allowed - self.pulled
        if self.finished or room < 1:
            return
        submit, fn, options, basket = self.core.submit, self.fn, self.options, self.basket
        keep = self.line.append if basket is None else _leave
        before = self.pulled
        try:
            for item in itertools.islice(self.iterator or (), room):
                self.pulled += 1
                keep(submit(fn, (item,), None, options, CALL, basket))
                self.submitted += 1
        except BaseException as error:
            self._fail(error)
        else:
            if self.pulled - before < room:
                self.finish()

    def step(self) -> None:
        """Pull one chunk and submit it; runs the iterator, and whatever pickling the items runs."""
        items: list[Any] = []
        iterator = self.iterator
        try:
            for _ in range(self.chunk if iterator is not None else 0):
                self.pulled += 1
                try:
                    items.append(next(iterator))  # type: ignore[arg-type]
                except StopIteration:
                    self.pulled -= 1
                    break
            if items and not self.closed:
                self._submit(items)
        except BaseException as error:
            self._fail(error)
            return
        if len(items) < self.chunk:
            self.finish()

    def _fail(self, error: BaseException) -> None:
        # An interrupt of the consumer's own thread ends it too: an item may have been lost, so the stream must not go
        # on as if nothing had happened.
        self.finish(error)
        if self.inline and not isinstance(error, Exception):
            raise error

    def _submit(self, items: list[Any]) -> None:
        mode, args = (CALL, (items[0],)) if self.chunk == 1 else (CHUNK, (items,))
        task = self.core.submit(self.fn, args, None, self.options, mode, self.basket)
        if self.basket is None:
            self.line.append(task)
        self.submitted += 1
        if self.closed:
            self.core.withdraw(task)
        # First the count, then the look; the consumer does it crosswise before it sleeps.
        if self.hungry:
            with self.changed:
                self.changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """Pull nothing more; what was submitted goes on, and *error* follows it."""
        with self.changed:
            if self.finished:
                return
            self.finished = True
            self.error = error
            iterator, self.iterator = self.iterator, None
            self.changed.notify_all()
        del iterator  # which may run code of the user's: not under our lock
        if self.on_finish is not None:
            self.on_finish(self)

    def await_permission(self) -> bool:
        """For the feeder: wait until a chunk may be pulled; False when nothing more is wanted."""
        if not (self.closed or self.finished) and self.allowed - self.pulled >= self.chunk:
            return True
        with self.changed:
            while not (self.closed or self.finished or self.allowed - self.pulled >= self.chunk):
                self.changed.wait()
            return not (self.closed or self.finished)

    def close(self) -> None:
        """Nobody wants the rest: cancel what waits, pull nothing more.

        In this order: dropping a generator runs its ``finally``, which may take its time.
        """
        with self.changed:
            self.closed = True
        try:
            for task in self._unread():
                self.core.withdraw(task)
        finally:
            self.finish()
        self.excuse()

    def excuse(self) -> None:
        """No report of failures here if the consumer has had one: it left because of it, and knows enough."""
        if self.complained:
            for task in self._unread():
                task._asked = True

    def _unread(self) -> list[Task[Any]]:
        """What was submitted and has not been taken."""
        if self.basket is None:
            return list(self.line)
        return [*self.basket.ready, *(task for task in self.core.pending() if task._basket is self.basket)]


def _leave(task: Task[Any]) -> None:
    """Unordered: the basket gets the task when it is settled."""


def _feed(flow: Flow) -> None:
    """The feeder thread."""
    while flow.await_permission():
        flow.step()
    if not flow.closed:  # else whoever closes it does so, after he has cancelled what waits
        flow.finish()


class Flows:
    """The flows of a pool that still pull, and the closing of the pool that has to wait for them."""

    def __init__(self, when_done: Callable[[], object]) -> None:
        self._when_done = when_done  # called once, when the pool is closing and nothing pulls any more
        self._lock = threading.RLock()  # a forgotten generator may close its stream while its thread has the lock
        self._flows: set[Flow] = set()
        self._known: weakref.WeakSet[Flow] = weakref.WeakSet()  # also those that have ended and are not read yet
        self._closing = False
        self._quiet = threading.Event()
        self._quiet.set()

    def add(self, flow: Flow) -> None:
        """Start *flow*."""
        flow.on_finish = self._remove
        with self._lock:
            self._flows.add(flow)
            self._known.add(flow)
            self._quiet.clear()
        try:
            flow.start()
        except BaseException:
            flow.finish()
            raise

    def _remove(self, flow: Flow) -> None:
        with self._lock:
            self._flows.discard(flow)
            if self._flows:
                return
            self._quiet.set()
            done = self._closing
        if done:
            self._when_done()

    def close(self) -> None:
        """No new work: what builtin containers still hold is submitted, other iterators go on being pulled."""
        with self._lock:
            first, self._closing = not self._closing, True
            flows = list(self._flows)
        for flow in flows:
            if flow.finite:
                flow.grant(EVERYTHING)
        if first and not flows:
            self._when_done()

    def drain(self, timeout: float | None = None) -> bool:
        """Lift the bound: submit all that the iterators still give, and wait for their end."""
        with self._lock:
            flows = list(self._flows)
        for flow in flows:
            flow.grant(EVERYTHING)
        return patience.wait(self._quiet, timeout)

    def excuse(self) -> None:
        """Before unread failures are reported: leave out those of streams that have raised one."""
        with self._lock:
            flows = list(self._known)
        for flow in flows:
            flow.excuse()

    def stop(self, how: str) -> None:
        """Pull nothing more; whoever asks for more is told that the pool was *how*."""
        with self._lock:
            flows = list(self._flows)
        for flow in flows:
            flow.finish(
                PoolClosed(
                    f"the pool was {how} before this iterator was read to its end",
                    why=f"{flow.pulled} items had been pulled; no more than `buffer` are pulled ahead of the reader",
                    fix="read the iterator to its end inside the with block",
                )
            )
