"""Queues between threads, processes, pool tasks and machines: Queue, JoinableQueue, SimpleQueue."""

from __future__ import annotations

from typing import Any

from multitask._engine.queueing.interface import Empty, Full, Queue, ShutDown

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "ShutDown", "SimpleQueue"]

# Every Queue counts what is dealt with; the name is for programs that ask for it.
JoinableQueue = Queue


class SimpleQueue:
    """``get``, ``put``, ``empty``, ``close`` and no more, as ``multiprocessing.SimpleQueue``, on a Queue without bound.

    Travels as a Queue does. Iteration, timeouts and the end of the stream are what Queue is for.
    """

    __slots__ = ("__weakref__", "_queue")

    def __init__(self) -> None:
        self._queue = Queue()

    def put(self, obj: Any) -> None:
        """Append *obj*; never blocks for long. Raises OSError after ``close`` here, and what ``Queue.put`` does."""
        self._open().put(obj)

    def get(self) -> Any:
        """Remove the oldest item and return it; blocks until there is one. Raises OSError after ``close`` here."""
        return self._open().get()

    def empty(self) -> bool:
        """Whether there was nothing in it a moment ago. Raises OSError after ``close`` here."""
        return self._open().empty()

    def close(self) -> None:
        """This process is through with it; nothing that was put is lost."""
        self._queue.close()

    def _open(self) -> Queue:
        if self._queue.closed:
            raise OSError("handle is closed")  # the stdlib's words
        return self._queue

    def __repr__(self) -> str:
        return repr(self._queue).replace("<Queue", "<SimpleQueue", 1)

    def __reduce__(self) -> Any:
        return _simple, (self._queue,)


def _simple(queue: Queue) -> SimpleQueue:
    made = SimpleQueue.__new__(SimpleQueue)
    made._queue = queue
    return made
