"""``queue.serve()``: one thread with an event loop answers all clients of a queue.

    accept ─► greet (fixed lengths, nothing believed) ─► read frames ─► Session: begun before? ─► Desk: try at once
                                                             ▲                                      │ not yet
                                                             └── answers ◄── Session.answer ◄── task, awaiting ◄─┘

Owner of sessions and connections: the loop's thread. Rule: nothing that a client does holds this thread; a request that
must wait is a coroutine in ``awaiting``'s line, and all of them together have one thread asleep in the queue.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import struct
import threading
import weakref
from typing import TYPE_CHECKING, Any

from multitask._engine.queueing.local import Staying
from multitask._engine.queueing.remote import frames, sockets
from multitask._engine.queueing.remote.connection import Connection
from multitask._engine.queueing.remote.desk import Desk
from multitask._engine.queueing.remote.session import Session

if TYPE_CHECKING:
    from multitask._engine.queueing.interface import Queue

HANDSHAKE_SECONDS = 10.0
STRANGERS = 256  # connections that have not shown the key; the oldest goes when more come
BACKLOG = 1024
CLOSE_SECONDS = 5.0
FLUSH_SECONDS = 1.0


class Server:
    """A queue that answers ``Queue.connect``; a context manager. ``address`` is where, with the real port.

    It goes on until ``close`` or the end of the process. Made by ``Queue.serve``.
    """

    def __init__(self, queue: Queue, address: tuple[str, int], key: bytes, patience: float) -> None:
        self.queue = queue
        self.patience = patience
        self.sessions: dict[bytes, Away] = {}
        self.connections: set[Connection] = set()
        self.strangers: dict[asyncio.StreamWriter, None] = {}
        self.desk = Desk(queue, objects=isinstance(queue, Staying))
        self._key = key
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._listener = sockets.listen(address, BACKLOG)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="multitask-serve", daemon=True)
        self._pid = os.getpid()
        self._ready = threading.Event()
        _servers.add(self)
        self._thread.start()
        self._ready.wait()

    # --- for the owner -----------------------------------------------------------------------------------

    @property
    def clients(self) -> int:
        """How many clients are connected now."""
        return len(self.connections)

    def close(self) -> None:
        """Answer nobody any more; the queue itself stays as it is. Returns when all connections are closed.

        Messages that clients were sent and had not confirmed go back, at the end of the queue. Where it is full for 5
        seconds, or shut down, Full or ShutDown is raised; they are in the error's attribute ``items``.
        """
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        if self.desk.left:
            kind = self.queue.ShutDown if self.queue.is_shutdown else self.queue.Full
            error = kind(f"{len(self.desk.left)} messages that clients had not confirmed could not go back")
            error.items = self.desk.left  # type: ignore[attr-defined]
            raise error

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        host, port = self.address
        state = "closed" if self._closed else f"{self.clients} clients"
        return f"<Server of {self.queue!r} on {host}:{port}, {state}>"

    # --- its thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener, backlog=BACKLOG))
        self._ready.set()
        try:
            loop.run_forever()
        finally:
            server.close()
            loop.run_until_complete(self._end())
            loop.close()

    async def _end(self) -> None:
        back = [item for away in list(self.sessions.values()) for item in away.end()]
        writers = [*self.strangers, *(connection.writer for connection in self.connections)]
        for writer in writers:
            writer.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        closing = [asyncio.ensure_future(writer.wait_closed()) for writer in writers]
        if closing:
            await asyncio.wait(closing, timeout=FLUSH_SECONDS)
            for writer in writers:
                writer.transport.abort()
            await asyncio.gather(*closing, return_exceptions=True)
        back, self.desk.left = back + self.desk.left, []
        try:
            await self.desk.put_back(back, CLOSE_SECONDS)
        except (self.queue.Full, MemoryError):  # close() says so
            pass

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        """A task that nobody waits for; kept until it is through."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def give_back(self, items: list[Any]) -> None:
        """Into the queue again, as soon as there is room."""
        if items:
            self.start(self.desk.put_back(items))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.strangers[writer] = None
        if len(self.strangers) > STRANGERS:
            oldest = next(iter(self.strangers))
            del self.strangers[oldest]
            oldest.transport.abort()
        connection = None
        try:
            sockets.tune(writer.get_extra_info("socket"))
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                session = await self._greet(reader, writer)
            if session is None:
                return
            self.strangers.pop(writer, None)
            connection = Connection(self, reader, writer, session)
            self.connections.add(connection)
            connection.away.comes(connection)
            await connection.read()
        except (OSError, EOFError, ValueError, struct.error, asyncio.CancelledError):
            pass  # gone, too slow, no client of ours, or the server ends
        finally:
            self.strangers.pop(writer, None)
            if connection is not None:
                self.connections.discard(connection)
                connection.away.goes(connection)
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        """Who is there: its session, or None for one that does not know the key. Fixed lengths only."""
        nonce = secrets.token_bytes(frames.NONCE_BYTES)
        writer.write(frames.MAGIC + nonce)
        magic = await reader.readexactly(len(frames.MAGIC))
        if magic != frames.MAGIC:
            return None
        theirs = await reader.readexactly(frames.NONCE_BYTES)
        session = await reader.readexactly(frames.SESSION_BYTES)
        shown = await reader.readexactly(frames.PROOF_BYTES)
        if not frames.same(shown, frames.proof(self._key, b"client", nonce, theirs, session)):
            writer.write(frames.WELCOME.pack(frames.REFUSED, False, 0.0, 0))
            await writer.drain()
            return None
        known = session in self.sessions
        if not known:
            self.sessions[session] = Away(self, session)
        mine = frames.proof(self._key, b"server", nonce, theirs, session)
        writer.write(frames.WELCOME.pack(mine, known, self.patience, self.queue.maxsize))
        return session


class Away:
    """A client's session and the connection it has now, if any; ended when it is away for longer than the patience."""

    def __init__(self, server: Server, key: bytes) -> None:
        self.server = server
        self.key = key
        self.session = Session()
        self.connection: Connection | None = None
        self.timer: asyncio.TimerHandle | None = None

    def comes(self, connection: Connection) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.connection is not None:  # half open: the client has given it up before we heard of it
            self.connection.writer.transport.abort()
        self.connection = connection

    def goes(self, connection: Connection) -> None:
        if self.connection is not connection:
            return
        self.connection = None
        if connection.said_bye:
            self.over()
        else:
            self.timer = asyncio.get_running_loop().call_later(self.server.patience, self.over)

    def send(self, number: int, kind: int, content: tuple[bytes, ...]) -> None:
        """To the client where it is now; while it is away the session keeps the answer."""
        if self.connection is not None:
            self.connection.writer.writelines([frames.frame(kind, number, 0, *content)])

    def over(self) -> None:
        self.server.give_back(self.end())

    def end(self) -> list[Any]:
        if self.timer is not None:
            self.timer.cancel()
        self.server.sessions.pop(self.key, None)
        return self.session.end()


_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def _forked() -> None:
    """The child must not hold the connections open: clients would never hear of the server's end."""
    for server in list(_servers):
        sockets.let_go([server._listener, *(c.writer.get_extra_info("socket") for c in server.connections)])
        sockets.let_go([writer.get_extra_info("socket") for writer in server.strangers])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
