"""How a queue's descriptors reach another process: by the family's broker, or with a process that is being started.

The handles of one pickle are for one reader. A reader that has the queue already says so (``refuse``): otherwise the
broker would wait for it to fetch them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from multitask._engine import family


class Handles(NamedTuple):
    """What stands for the descriptors in a pickle: tickets, or what the stdlib gives to a process that it starts."""

    tickets: tuple[Any, ...] = ()
    given: tuple[Any, ...] = ()
    lock: Any = None


def send(name: str, key: bytes, descriptors: Sequence[int], lock: Any = None) -> Handles:
    """Handles for *descriptors*, which belong to what *key* stands for; *lock* is the stdlib's semaphore, or None.

    Raises CannotTravel, with *name* in it, where only a process that is being started can be given anything.
    """
    if lock is None and family.available:
        return Handles(tickets=tuple(family.lend(fd, key + bytes([n])) for n, fd in enumerate(descriptors)))
    if not _spawning():
        from multitask.errors import CannotTravel

        raise CannotTravel(
            f"{name} cannot go to a process that runs already",
            why="this platform cannot pass descriptors between processes"
            if lock is None
            else "its lock is the standard library's semaphore, which is inherited only",
            fix="give it to the Process when that is started, or use Manager().Queue()",
        )
    from multiprocessing.reduction import DupFd

    return Handles(given=tuple(DupFd(fd) for fd in descriptors), lock=lock)


def receive(handles: Handles) -> list[int]:
    """The descriptors, which are the caller's from now on."""
    if handles.tickets:
        return [family.borrow(ticket) for ticket in handles.tickets]
    return [given.detach() for given in handles.given]


def refuse(handles: Handles) -> None:
    """Say that the descriptors are not needed."""
    for ticket in handles.tickets:
        family.forgo(ticket)


def released(key: bytes, count: int) -> None:
    """Say that this process has let go of the *count* descriptors of *key*."""
    for n in range(count):
        family.release(key + bytes([n]))


def _spawning() -> bool:
    context = sys.modules.get("multiprocessing.context")
    return context is not None and context.get_spawning_popen() is not None
