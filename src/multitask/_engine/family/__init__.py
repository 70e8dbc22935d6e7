"""Descriptors that travel inside of pickles to a reader whom the writer does not know.

    ticket = lend(fd)        in any process of the family: its root keeps a copy
    fd = borrow(ticket)      in any other, also when the lender has ended

Any thread may call anything here. The protocol, and who dies when, stands in README.md.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from multitask import errors
from multitask._engine.family.messages import DROP, FORGO, NUMBER, RELEASE, Address, Ticket
from multitask._engine.workers import forking
from multitask._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TypeVar

    from multitask._engine.family.broker import Broker
    from multitask._engine.family.line import Line

    T = TypeVar("T")

__all__ = [
    "Address",
    "Ticket",
    "abroad",
    "address",
    "attach",
    "available",
    "borrow",
    "descriptors",
    "drop",
    "forgo",
    "join",
    "known_as",
    "lend",
    "release",
    "serve",
    "shared",
]

available = sys.platform == "linux"

_lock = threading.RLock()  # guards the three below; never held while anything is waited for
_broker: Broker | None = None  # this process is a root
_home: Address | None = None  # where to lend
_lines: dict[Address, Line] = {}
_uses_keys = False  # something with a key is, or was, used here
_known: weakref.WeakValueDictionary[bytes, Any] = weakref.WeakValueDictionary()


_here = threading.local()

# --- lending and borrowing ------------------------------------------------------------------------------------------


@contextmanager
def abroad() -> Iterator[None]:
    """What this thread pickles in the block is for a reader who may be on another machine: nothing can be lent."""
    before = getattr(_here, "abroad", False)
    _here.abroad = True
    try:
        yield
    finally:
        _here.abroad = before


def lend(fd: int, key: bytes | None = None, *, held: bool = False) -> Ticket:
    """Have the root keep a copy of *fd* until it is borrowed; the caller keeps his.

    *key* names a thing that many use (a queue's memfd): one entry, kept while any process has the file open or mapped
    or a handle is under way. *fd* must then be a description of the caller's own, which gets a shared flock(2).
    ``held``: may be borrowed more than once, until ``drop(ticket)``. Waits for the root, at most 20 s.
    Raises OSError (EMFILE) when the root has no descriptor left, NotSupported off Linux, CannotTravel inside of
    ``abroad()``.
    """
    global _uses_keys
    if getattr(_here, "abroad", False):
        raise errors.CannotTravel(
            "shared memory, queues, pipes and sockets are those of one machine",
            fix="send what is in them, as numpy.array(shared), value.value, bytes(view), or an address to connect to",
        )
    where = address()
    if where is None:
        raise _not_here()
    if key is not None:
        try:
            import fcntl
        except ImportError:
            raise _not_here() from None
        fcntl.flock(fd, fcntl.LOCK_SH)
        _uses_keys = True
    broker = _own(where.name)
    if broker is not None:
        return Ticket(*where, _lend_here(broker, fd, key or b"", held))
    try:
        return Ticket(*where, _line(where).lend(fd, key or b"", held))
    except ConnectionError:
        _leave(where)  # the root has ended: this process becomes one
        return lend(fd, key, held=held)


def _lend_here(broker: Broker, fd: int, key: bytes, held: bool) -> int:
    from multitask._engine.family.entries import Full
    from multitask._engine.family.line import out_of_descriptors

    broker.serve()
    try:
        with forking.gate:
            copy = forking.own(os.dup(fd))
        return broker.entries.add(copy, key, held)
    except (Full, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EMFILE:
            raise
        raise OSError(errno.EMFILE, out_of_descriptors(os.getpid(), len(broker.entries))) from None


def _not_here() -> errors.NotSupported:
    return errors.NotSupported(
        "descriptors, and so shared memory and queues, cannot be handed to running processes on this platform",
        fix="use a Manager, or a queue that serves others: queue.serve((host, port), authkey=...)",
    )


def borrow(ticket: Ticket, *, counted: bool = True) -> int:
    """A new close-on-exec descriptor for what was lent; the caller's own. Waits for the root, at most 20 s.

    ``counted=False``: the handle was forgone when it was written, because its sender keeps a use of the thing himself
    until it has been read; it is not taken from what is under way.
    Raises CannotTravel when it is gone (with the reason), OSError when this process has no descriptor left.
    """
    global _uses_keys
    ticket = Ticket(*ticket)
    _uses_keys = True  # the ticket does not say
    broker = _own(ticket.name)
    if broker is not None:
        fd = broker.entries.take(ticket.number, counted)
        if fd is not None:
            return forking.let_go(fd)
        from multitask._engine.family.line import gone

        raise gone(ticket.pid)
    join(ticket.address)
    try:
        return _line(ticket.address).borrow(ticket.number, counted)
    except ConnectionError as error:
        raise errors.CannotTravel(
            "a descriptor that was lent cannot be borrowed",
            why=str(error.strerror or error),
            fix="let the first process of the program outlive those that it hands things to",
        ) from error


def attach(ticket: Ticket) -> None:
    """This process uses what *ticket* stands for without having borrowed it: the root shall see when it ends."""
    global _uses_keys
    where = Ticket(*ticket).address
    _uses_keys = True
    if _own(where.name) is None:
        join(where)
        _line(where).open()


def forgo(ticket: Ticket) -> None:
    """A handle was read whose thing is here already: its descriptor is not needed. Never waits, never raises."""
    _tell(Ticket(*ticket).address, FORGO, NUMBER.pack(ticket[3]))


def drop(ticket: Ticket) -> None:
    """Take back what was lent with ``held=True``. For finalizers too: never waits, never raises."""
    _tell(ticket.address, DROP, NUMBER.pack(ticket.number))


def release(key: bytes) -> None:
    """This process's last use of *key* has ended (closed and unmapped). For finalizers: never waits, never raises."""
    where = _home
    if where is not None:
        _tell(where, RELEASE, key)


def _tell(where: Address, kind: bytes, content: bytes) -> None:
    if sys.is_finalizing():
        return  # threads stand still now, with whatever lock they hold, and the end of this process says it all
    broker = _own(where.name)
    if broker is not None:
        if kind == RELEASE:
            broker.entries.release(content)
        elif kind == FORGO:
            broker.entries.forgo(NUMBER.unpack(content)[0])
        else:
            broker.entries.drop(NUMBER.unpack(content)[0])
        return
    line = _lines.get(where)
    if line is None and kind == FORGO:
        line = _line(where)
        try:
            line.open()
        except OSError:  # the root has ended: nobody counts any more
            return
    if line is not None:
        line.tell(kind + content)


# --- things that many use -------------------------------------------------------------------------------------------


def known_as(key: bytes, thing: object) -> None:
    """*thing* is what handles with *key* stand for in this process; held weakly."""
    _known[key] = thing


def shared(key: bytes, ticket: Ticket, make: Callable[[int], T]) -> T:
    """What *key* stands for here: the object there is, or ``make(descriptor)``, which takes the descriptor over."""
    found: T | None = _known.get(key)
    if found is not None:
        forgo(ticket)
        return found
    made = make(borrow(ticket))
    first: T = _known.setdefault(key, made)
    return first


# --- who the root is ------------------------------------------------------------------------------------------------


def address() -> Address | None:
    """Where this family's root is; this process itself when it has not learnt of another. None off Linux."""
    global _broker, _home
    if _home is None and available:
        from multitask._engine.family.broker import Broker

        with _lock:
            if _home is None:
                _broker = Broker()
                _home = _broker.address
    return _home


def join(where: Address | None) -> None:
    """Learn where the root is, unless it is known already."""
    global _home
    if where is not None:
        with _lock:
            if _home is None:
                _home = Address(*where)


def serve() -> None:
    """Answer from now on, if this process is the root. Lending does it by itself."""
    broker = _broker
    if broker is not None:
        broker.serve()


def descriptors() -> set[int]:
    """What the family keeps open in this process for itself: not what was lent."""
    broker = _broker
    found = set() if broker is None else broker.descriptors()
    for line in tuple(_lines.values()):
        found |= line.descriptors()
    return found


def _own(name: bytes) -> Broker | None:
    broker = _broker
    return broker if broker is not None and broker.address.name == name else None


def _line(where: Address) -> Line:
    line = _lines.get(where)
    if line is None:
        from multitask._engine.family.line import Line

        with _lock:
            line = _lines.setdefault(where, Line(where))
    return line


def _leave(where: Address) -> None:
    global _home
    with _lock:
        _lines.pop(where, None)
        if _home is not None and _home.name == where.name:
            _home = None


def _forget() -> None:
    """In a forked child: a member from now on. Whoever uses things with keys is seen to end by a line of its own."""
    global _broker, _lock
    _lock = threading.RLock()
    for line in _lines.values():
        line.abandon()
    _lines.clear()
    if _broker is not None:
        _broker.abandon()
        _broker = None
    if _uses_keys and _home is not None:
        try:
            _line(_home).open()
        except (OSError, errors.MultitaskError):  # the root has ended meanwhile
            pass


forking.in_forked_child(_forget)
