"""Queues between machines: ``queue.serve()`` and ``Queue.connect()``. README.md has the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multitask._engine.queueing.remote import frames, sockets
from multitask._engine.queueing.remote.client import RemoteQueue
from multitask._engine.queueing.remote.server import Server

if TYPE_CHECKING:
    from multitask._engine.queueing.interface import Queue

__all__ = ["RemoteQueue", "Server", "connect", "serve"]

PATIENCE_SECONDS = 10.0


def serve(
    queue: Queue,
    address: tuple[str, int] = ("127.0.0.1", 0),
    *,
    authkey: bytes | str | None = None,
    patience: float = PATIENCE_SECONDS,
) -> Server:
    """``Queue.serve``. A client that is away for longer than *patience* seconds is given up."""
    return Server(queue, sockets.check(address), frames.key_bytes(authkey), patience)


def connect(
    address: tuple[str, int], *, authkey: bytes | str | None = None, timeout: float | None = None
) -> RemoteQueue:
    """``Queue.connect``. With *timeout* a server that is not there yet is waited for, at most so many seconds."""
    return RemoteQueue(sockets.check(address), frames.key_bytes(authkey), timeout)
