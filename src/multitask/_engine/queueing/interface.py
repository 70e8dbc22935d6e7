"""The queue as users see it: one class for threads, processes, pool tasks and coroutines, in several flavours.

``Queue(...)`` is the door: it makes the flavour that fits (``memory``, ``files``, ``local``, ``remote``), each of them
a subclass that keeps exactly what stands here. What they promise beyond it, and what not, is in README.md.
"""

from __future__ import annotations

import operator
import queue
import sys
from collections.abc import Iterable, Iterator
from types import GenericAlias
from typing import TYPE_CHECKING, Any, ClassVar, Self

from multitask._engine.queueing import choice

if TYPE_CHECKING:
    from multitask._engine.queueing.remote import Server

Full = queue.Full
Empty = queue.Empty

if sys.version_info >= (3, 13):
    ShutDown = queue.ShutDown
else:

    class ShutDown(Exception):
        """put() on a queue that was shut down, or get() on one that was and is empty.

        ``queue.ShutDown`` itself on Python 3.13 and newer.
        """

    ShutDown.__module__ = "multitask.queues"


class Queue:
    """A first-in, first-out line that threads, processes, pool tasks and coroutines share.

    ``Queue(maxsize)`` blocks ``put`` while *maxsize* items are in it; zero, None or less: no bound but memory. There is
    no feeder thread: when ``put`` returns, the item is in the queue and outlives the process that put it. What is got
    is always a copy. The queue itself may be inherited, be an argument or a result of a Process or of a pool task, also
    one that runs already, or an item of another queue; it is freed with its last user.

    ``Queue(shared=False)`` is the queue between the threads of one process: the very same object comes out, nothing is
    pickled, and it refuses to travel. ``Queue.connect(address, authkey=…)`` is the line to a queue that another
    process or machine ``serve``s.

    Every method of ``multiprocessing.Queue``, ``JoinableQueue`` and (3.13) ``queue.Queue`` is here with its meaning;
    ``Queue.Full``, ``Queue.Empty`` and ``Queue.ShutDown`` are ``queue``'s. Any number of threads and processes may use
    every method at once.
    """

    __slots__ = ()

    Full: ClassVar[type[Exception]] = Full
    Empty: ClassVar[type[Exception]] = Empty
    ShutDown: ClassVar[type[Exception]] = ShutDown

    def __new__(cls, maxsize: int | None = 0, *, shared: bool = True) -> Self:
        # type.__call__ goes on with the flavour's own __init__(maxsize, shared=…), for it is a subclass.
        if cls is Queue:
            flavour = choice.flavour(shared)
            return flavour.__new__(flavour)  # type: ignore[return-value]  # the one in C has its own
        return super().__new__(cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A subclass of a flavour is one; of the door alone there is nothing to inherit.
        if cls.__bases__ == (Queue,) and not cls.__module__.startswith("multitask."):
            raise TypeError("a subclass of Queue would have no queue in it; hold a Queue in an attribute instead")

    # --- one item --------------------------------------------------------------------------------------------

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Append *obj*; when this returns, it is in the queue.

        Blocks while the queue is full, at most *timeout* seconds (None: without end), then raises Full; with
        ``block=False`` at once, whatever *timeout* says. A negative *timeout* counts as 0 in a shared queue (as in
        ``multiprocessing.Queue``) and is a ValueError in one between threads (as in ``queue.Queue``).

        Raises ShutDown after ``shutdown``, also when it comes while this waits; ValueError after ``close`` in this
        process; CannotTravel, with the path inside *obj*, for what cannot be pickled; MemoryError when there is no room
        for it in memory. After each of them the queue is as it was.
        """
        raise NotImplementedError

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Remove the oldest item and return it.

        Blocks while the queue is empty, at most *timeout* seconds, then raises Empty; *block* and *timeout* as in
        ``put``. Raises ShutDown when the queue was shut down and is empty, ValueError after ``close`` in this process.
        What cannot be rebuilt here is gone from the queue and raises CannotTravel, caused by its own error.
        """
        raise NotImplementedError

    def put_nowait(self, obj: Any) -> None:
        """``put(obj, block=False)``."""
        self.put(obj, False)

    def get_nowait(self) -> Any:
        """``get(block=False)``."""
        return self.get(False)

    # --- many ------------------------------------------------------------------------------------------------

    def put_many(self, iterable: Iterable[Any], block: bool = True, timeout: float | None = None) -> int:
        """Append every item of *iterable* in its order and return how many there were.

        Much cheaper a piece than ``put``. Not one step: items become visible batch by batch, and those of other
        producers may stand between two batches. *timeout* is for the whole call. The errors are ``put``'s (and what
        *iterable* raises); everything before the item at which it was raised is in the queue then, their number in
        the error's attribute ``done``.
        """
        raise NotImplementedError

    def get_many(self, most: int | None = None, block: bool = True, timeout: float | None = None) -> list[Any]:
        """Remove what is there, at most *most* items (None: all), and return it as a list, the oldest first.

        Waits for the first one only, and raises what ``get`` raises where that would, so the list is never empty.
        *most* below 1 is a ValueError. When an item cannot be rebuilt, the others that were taken with it are in
        the attribute ``items`` of the error.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        """Yield ``get()`` until the queue is shut down and empty."""
        while True:
            try:
                item = self.get()
            except ShutDown:
                return
            yield item

    # --- how it stands ---------------------------------------------------------------------------------------

    @property
    def maxsize(self) -> int:
        """How many items it holds at most; 0: no bound."""
        raise NotImplementedError

    @property
    def put_count(self) -> int:
        """How many items were ever put; ``put_count - got_count`` is ``qsize()``."""
        raise NotImplementedError

    @property
    def got_count(self) -> int:
        """How many items were ever taken (those that ``shutdown(immediate=True)`` dropped are among them).

        What consumers got and this say different when consumers were killed after they had taken something.
        """
        raise NotImplementedError

    @property
    def unfinished_tasks(self) -> int:
        """How many items were put and are not yet said to be done; ``join`` waits for 0."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called in this process."""
        raise NotImplementedError

    @property
    def is_shutdown(self) -> bool:
        """Whether somebody called ``shutdown``."""
        raise NotImplementedError

    def qsize(self) -> int:
        """How many items are in it now, exact at one moment of the call."""
        raise NotImplementedError

    def empty(self) -> bool:
        """Whether there was nothing in it a moment ago. An item that was put is seen at once, by everybody."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether ``maxsize`` items were in it a moment ago."""
        return 0 < self.maxsize <= self.qsize()

    def wait_readable(self, timeout: float | None = None) -> bool:
        """Block until ``get`` is worth a try (an item, or shut down); False when *timeout* seconds passed first."""
        raise NotImplementedError

    def wait_writable(self, timeout: float | None = None) -> bool:
        """Block until ``put`` is worth a try (room, or shut down); False when *timeout* seconds passed first."""
        raise NotImplementedError

    def _waiting(self) -> tuple[int, int]:
        """How many wait in ``get`` and in ``put``, as far as this flavour knows."""
        return 0, 0

    def __repr__(self) -> str:
        size, bound = self.qsize(), self.maxsize
        items = f"{size}/{bound} items" if bound else f"{size} item{'' if size == 1 else 's'}"
        to_get, to_put = self._waiting()
        states = [
            *([f"{to_get} waiting to get"] if to_get else []),
            *([f"{to_put} waiting to put"] if to_put else []),
            *(["shut down"] if self.is_shutdown else []),
            *(["closed here"] if self.closed else []),
        ]
        return f"<Queue {', '.join([items, *states])}>"

    # --- work that is done -----------------------------------------------------------------------------------

    def task_done(self, count: int = 1) -> None:
        """Say that *count* items that were got are dealt with; ValueError when that is more than were put."""
        raise NotImplementedError

    def join(self, timeout: float | None = None) -> None:
        """Block until every item that was put is dealt with (``task_done``).

        Raises multitask.TimeoutError after *timeout* seconds. Works after ``close`` and after ``shutdown``, as
        ``queue.Queue.join`` does.
        """
        raise NotImplementedError

    # --- the end ---------------------------------------------------------------------------------------------

    def shutdown(self, immediate: bool = False) -> None:
        """Let nothing in any more, for everybody: put raises ShutDown, get does when nothing is left.

        With *immediate* what is in the queue is dropped and counts as done for ``join``. Wakes everybody who waits. As
        ``queue.Queue.shutdown`` of Python 3.13, between processes too.
        """
        raise NotImplementedError

    def close(self) -> None:
        """This process is through with it: put and get raise ValueError from now on, here and in nobody else's.

        Calls that wait in other threads go on. qsize, empty, full, task_done, join and shutdown still work. Nothing is
        lost: what was put is in the queue.
        """
        raise NotImplementedError

    def join_thread(self) -> None:
        """Return at once: no thread of the queue's has to be waited for."""

    def cancel_join_thread(self) -> None:
        """Do nothing, for the same reason."""

    # --- coroutines and other machines -----------------------------------------------------------------------

    async def aput(self, obj: Any, timeout: float | None = None) -> None:
        """``put`` for coroutines: the event loop goes on while this waits. Cancelling it puts nothing."""
        from multitask._engine.queueing import awaiting

        await awaiting.aput(self, obj, timeout)

    async def aget(self, timeout: float | None = None) -> Any:
        """``get`` for coroutines: the event loop goes on while this waits. Cancelling it takes nothing."""
        from multitask._engine.queueing import awaiting

        return await awaiting.aget(self, timeout)

    def serve(self, address: tuple[str, int] = ("127.0.0.1", 0), *, authkey: bytes | str | None = None) -> Server:
        """Answer ``Queue.connect`` on *address* from now on, from threads of this process, and return the server."""
        from multitask._engine.queueing import remote

        return remote.serve(self, address, authkey=authkey)

    @classmethod
    def connect(
        cls, address: tuple[str, int], *, authkey: bytes | str | None = None, timeout: float | None = None
    ) -> Queue:
        """The queue that another process serves at *address*, authenticated before anything is unpickled."""
        from multitask._engine.queueing import remote

        return remote.connect(address, authkey=authkey, timeout=timeout)

    # --- as a class ------------------------------------------------------------------------------------------

    def __reduce__(self) -> Any:
        raise NotImplementedError

    def __class_getitem__(cls, item: Any) -> GenericAlias:
        return GenericAlias(cls, (item,))


def bound(maxsize: int | None) -> int:
    """*maxsize* as a count, 0 for no bound; TypeError for what is no whole number."""
    return max(0, 0 if maxsize is None else operator.index(maxsize))


def closed_error(which: Queue) -> ValueError:
    """The stdlib's words for use after close()."""
    return ValueError(f"Queue {which!r} is closed")
