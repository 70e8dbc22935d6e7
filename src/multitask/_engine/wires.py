"""Connections between two processes that may be strangers: ``multiprocessing``'s, and more can be sent through them.

The bytes on the wire are the standard library's: whoever talks to such a connection by ``multiprocessing`` understands
it as long as both can import what is sent. Functions and classes of scripts go by value (envelope.py), descriptors by
way of the family.
"""

from __future__ import annotations

import os
from multiprocessing import connection, context, reduction
from typing import Any

from multitask._engine import envelope, family
from multitask._engine.byvalue.handles import Lent


class Connection(connection.Connection):
    """One end of a Pipe, or what a Listener or Client gives. ``multiprocessing``'s, and besides:

    lambdas, closures and objects of ``__main__`` can be sent; the connection itself can be an argument or a result of a
    pool's task, an item of a queue, or be sent through another one, to processes that run already.
    """

    def send(self, obj: Any) -> None:
        """Send a picklable object. Blocks while the other side is slow to read.

        Raises CannotTravel, with the path in the object, before a byte is sent; ValueError when it is too large.
        """
        self._check_closed()  # type: ignore[attr-defined]
        self._check_writable()  # type: ignore[attr-defined]
        self._send_bytes(envelope.seal_whole(obj))  # type: ignore[attr-defined]

    def recv(self) -> Any:
        """The next object from the other side; waits for it. Raises EOFError when nothing is left and it was closed."""
        self._check_closed()  # type: ignore[attr-defined]
        self._check_readable()  # type: ignore[attr-defined]
        return envelope.open_sealed(self._recv_bytes().getbuffer())  # type: ignore[attr-defined]

    def __reduce__(self) -> Any:
        if context.get_spawning_popen() is not None or not family.available:
            handle: Any = reduction.DupFd(self.fileno())
        else:
            handle = Lent(family.lend(self.fileno()))
        return _again, (handle, self.readable, self.writable)


def _again(handle: Any, readable: bool, writable: bool) -> Connection:
    return Connection(handle.detach(), readable, writable)


reduction.register(Connection, Connection.__reduce__)


def ours(plain: Any) -> Any:
    """*plain*, a connection of the standard library that nobody else holds, as one of ours."""
    if type(plain) is not connection.Connection:  # a pipe of Windows
        return plain
    end: Any = plain
    handle, end._handle = end._handle, None
    return Connection(handle, plain.readable, plain.writable)


class Listener(connection.Listener):
    """A socket that waits for Clients: ``multiprocessing.connection.Listener``, whose connections can send more."""

    def accept(self) -> Any:
        """Wait for a client and return the connection to it. Raises AuthenticationError when the keys differ."""
        return ours(super().accept())


def Client(address: Any, family: str | None = None, authkey: bytes | None = None) -> Any:
    """Connect to the Listener at *address* and return the connection.

    With *authkey* (bytes) both sides prove that they know it, before anything is unpickled.
    """
    return ours(connection.Client(address, family, authkey))


def Pipe(duplex: bool = True) -> tuple[Any, Any]:
    """Two connected ends. With ``duplex=False`` the first only receives and the second only sends."""
    first, second = connection.Pipe(duplex)
    return ours(first), ours(second)


def abstract_address() -> str | None:
    """An address for a Listener that leaves nothing on a disk; None where there is no such thing."""
    return f"\0multitask-{os.urandom(12).hex()}" if family.available else None
