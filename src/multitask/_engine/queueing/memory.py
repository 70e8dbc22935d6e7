"""NativeQueue: the queue between processes, in anonymous shared memory (``_native/ring.pyx``, ``_native/QUEUE.md``).

This file is about how it gets from process to process. It owns one descriptor, a memfd, and everything is in that. By
``fork`` it is inherited as it is. In a pickle it is a *handle*: a key and the family's ticket for the descriptor, which
the reader borrows, whoever it is and whether the sender still lives. There is one object for a queue in each process:
a second handle gives the same object.
"""

from __future__ import annotations

import os
from typing import Any

from multitask._engine import family
from multitask._engine.queueing.interface import Queue, bound
from multitask._native.ring import RingQueue


class _Use:
    """This process's use of the queue with that key; told to be over once the memory is unmapped."""

    __slots__ = ("key",)

    def __init__(self, key: bytes) -> None:
        self.key = key

    def __del__(self) -> None:
        family.release(self.key)


class NativeQueue(RingQueue, Queue):
    """See the top of the file, and ``Queue``."""

    __slots__ = ("_key",)

    def __init__(self, maxsize: int | None = 0, *, shared: bool = True) -> None:
        super().__init__(bound(maxsize))
        self._key = os.urandom(16)
        # From now on, because a forked child may be handed what it has inherited.
        family.known_as(self._key, self)

    def __reduce__(self) -> Any:
        ticket = family.lend(self.fd, self._key)
        self._travelled()
        return _arrive, (self._key, ticket)

    def _travelled(self) -> None:
        """The family knows of it: it has to hear of the end, too."""
        if self.tie is None:
            self.tie = _Use(self._key)


def _arrive(key: bytes, ticket: family.Ticket) -> NativeQueue:
    """The one object in this process for the queue with that key."""

    def attach(fd: int) -> NativeQueue:
        made = NativeQueue._attach(fd)
        made._key = key
        return made

    queue = family.shared(key, ticket, attach)
    queue._travelled()
    return queue
