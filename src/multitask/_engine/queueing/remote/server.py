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
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from multitask._engine.queueing.local import Staying
from multitask._engine.queueing.remote import frames, sockets
from multitask._engine.queueing.remote.connection import Connection
from multitask._engine.queueing.remote.desk import Desk
from multitask._engine.queueing.remote.session import Session
from multitask._engine.queueing.remote.stream import Stream

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
        self.strangers: dict[Stream, None] = {}
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
        listening = loop.create_server(lambda: Stream(self._accepted), sock=self._listener, backlog=BACKLOG)
        server = loop.run_until_complete(listening)
        self._ready.set()
        try:
            self.start(self._beat())
            loop.run_forever()
        finally:
            server.close()
            loop.run_until_complete(self._end())
            loop.close()

    async def _end(self) -> None:
        back = [item for away in list(self.sessions.values()) for item in away.end()]
        streams = [*self.strangers, *(connection.stream for connection in self.connections)]
        for stream in streams:
            stream.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        closing = [asyncio.ensure_future(stream.wait_closed()) for stream in streams]
        if closing:
            await asyncio.wait(closing, timeout=FLUSH_SECONDS)
            for stream in streams:
                stream.abort()
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

    async def _beat(self) -> None:
        """Say to all clients that the server is there, and hang up on those who have said nothing for too long."""
        while True:
            due = self._loop.time() + sockets.BEAT_SECONDS
            await asyncio.sleep(sockets.BEAT_SECONDS)
            now = self._loop.time()
            late = now > due + sockets.BEAT_SECONDS  # this process was stopped: what was said has not been read yet
            for connection in list(self.connections):
                if now - connection.stream.heard > sockets.SILENCE_SECONDS and not late:
                    connection.stream.abort()
                else:
                    connection.beat()

    def _accepted(self, stream: Stream) -> None:
        self.start(self._serve(stream))

    async def _serve(self, stream: Stream) -> None:
        self.strangers[stream] = None
        if len(self.strangers) > STRANGERS:
            oldest = next(iter(self.strangers))
            del self.strangers[oldest]
            oldest.abort()
        connection = None
        try:
            sockets.tune(stream.sock)
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                session = await self._greet(stream)
            if session is None:
                return
            self.strangers.pop(stream, None)
            connection = Connection(self, stream, session)
            self.connections.add(connection)
            connection.away.comes(connection)
            await connection.read()
        except (OSError, EOFError, ValueError, struct.error, asyncio.CancelledError):
            pass  # gone, too slow, no client of ours, or the server ends
        finally:
            self.strangers.pop(stream, None)
            if connection is not None:
                self.connections.discard(connection)
                connection.away.goes(connection)
            stream.close()

    async def _greet(self, stream: Stream) -> bytes | None:
        """Who is there: its session, or None for one that does not know the key. Fixed lengths only."""
        nonce = secrets.token_bytes(frames.NONCE_BYTES)
        stream.write([frames.MAGIC + nonce])
        magic = await stream.exactly(len(frames.MAGIC))
        if magic != frames.MAGIC:
            return None
        theirs = bytes(await stream.exactly(frames.NONCE_BYTES))
        session = bytes(await stream.exactly(frames.SESSION_BYTES))
        shown = bytes(await stream.exactly(frames.PROOF_BYTES))
        if not frames.same(shown, frames.proof(self._key, b"client", nonce, theirs, session)):
            stream.write([frames.WELCOME.pack(frames.REFUSED, False, 0.0, 0)])
            return None
        known = session in self.sessions
        if not known:
            self.sessions[session] = Away(self, session)
        mine = frames.proof(self._key, b"server", nonce, theirs, session)
        stream.write([frames.WELCOME.pack(mine, known, self.patience, self.queue.maxsize)])
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
            self.connection.stream.abort()
        self.connection = connection

    def goes(self, connection: Connection) -> None:
        if self.connection is not connection:
            return
        self.connection = None
        if connection.said_bye:
            self.over()
        else:
            self.timer = asyncio.get_running_loop().call_later(self.server.patience, self.over)

    def send(self, number: int, kind: int, content: Sequence[frames.Buffer]) -> None:
        """To the client where it is now; while it is away the session keeps the answer."""
        if self.connection is not None:
            self.connection.stream.write(frames.parts(kind, number, 0, *content))

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
        sockets.let_go([server._listener, *(each.stream.sock for each in server.connections)])
        sockets.let_go([stream.sock for stream in server.strangers])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
