"""What holds a descriptor: sockets, Connections, the queues and locks of ``multiprocessing``.

The standard library pickles them while it starts a process, and asks that process's ``Popen`` to pass the descriptors.
Here a stand-in takes the place of that Popen and lends each descriptor to the family (family/README.md), so they
travel to processes that run already. Nothing is imported for it: who has such an object has loaded its module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from multitask._engine import family
from multitask._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multitask._engine.byvalue.pickling import ValuePickler

# ForkingPickler's own table, once it is there: what programs register with it counts here as well.
table: dict[type, Callable[[Any], Any]] = {}
_learnt = False


def reducer_for(kind: type) -> Callable[[Any, Any], Any] | None:
    """How objects of exactly *kind* are pickled, where the standard library has a way of its own."""
    if not _learnt:
        _learn()
    reduce = table.get(kind)
    if reduce is not None and kind is not partial:
        return _by_stand_in
    if kind.__module__ == "multiprocessing.synchronize":
        synchronize = sys.modules["multiprocessing.synchronize"]
        if issubclass(kind, synchronize.SemLock):
            return _semlock
    return None


def _learn() -> None:
    global table, _learnt
    reduction = sys.modules.get("multiprocessing.reduction")
    if reduction is not None and hasattr(reduction, "ForkingPickler"):
        table = reduction.ForkingPickler._extra_reducers
        _learnt = True


def _by_stand_in(pickler: ValuePickler, obj: Any) -> Any:
    with lending(pickler):
        return table[type(obj)](obj)


@contextmanager
def lending(pickler: ValuePickler) -> Iterator[None]:
    """What is pickled by this thread in the block may ask for descriptors to be passed, and they are lent."""
    from multiprocessing import context

    before = context.get_spawning_popen()
    context.set_spawning_popen(StandIn(pickler))  # type: ignore[arg-type]
    try:
        yield
    finally:
        context.set_spawning_popen(before)


class StandIn:
    """What ``multiprocessing.reduction`` takes for the Popen of a process that is being started."""

    def __init__(self, pickler: ValuePickler) -> None:
        self._pickler = pickler

    def duplicate_for_child(self, fd: int) -> int:
        return fd

    def DupFd(self, fd: int) -> Any:
        if not family.available:
            from multiprocessing import resource_sharer

            return resource_sharer.DupFd(fd)
        return Lent(self._pickler.traveller.lend(self._pickler, fd))


class Lent:
    """A descriptor on its way; whoever has it may detach it once (more often where the lender holds it)."""

    __slots__ = ("ticket",)

    def __init__(self, ticket: family.Ticket) -> None:
        self.ticket = ticket

    def __reduce__(self) -> Any:
        return Lent, (tuple(self.ticket),)

    def detach(self) -> int:
        """The descriptor, close-on-exec, for the caller to close."""
        return family.borrow(family.Ticket(*self.ticket))


class Held:
    """An entry that the root holds as long as this object lives: until the task that needs it is settled."""

    __slots__ = ("__weakref__", "ticket")

    def __init__(self, ticket: family.Ticket) -> None:
        self.ticket = ticket

    def __del__(self) -> None:
        family.drop(self.ticket)


def _semlock(pickler: ValuePickler, lock: Any) -> Any:
    inner = lock._semlock
    if not inner.name or getattr(lock, "_is_fork_ctx", False):
        raise TypeError(
            f"this multiprocessing.{type(lock).__name__} was made for start method 'fork' and has no name any more; "
            "multiprocessing.get_context('spawn') makes one that can be handed on"
        )
    return _rebuild_semlock, (type(lock), (inner.handle, inner.kind, inner.maxvalue, inner.name))


def _rebuild_semlock(kind: Any, state: tuple[Any, ...]) -> Any:
    lock = kind.__new__(kind)
    lock.__setstate__(state)
    return lock
