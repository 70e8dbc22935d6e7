"""A client's line to the server: one session, one connection at a time, and a thread that reads from it.

    ask ─► open requests ─► send ─► … ─► reader: MESSAGES ─► send RECEIPT ─► … ─► YOURS ─► whoever asked goes on
                 │                        DONE, FAILED ────────────────────────────────────►
                 └── connection lost: the reader connects again, says which are open, and sends each again

Owner of the requests and of the sending side: who holds ``_lock``; of the reading side: the reader. Rule: a request
stays open until its answer is here; an open one is sent on every new connection, under its old number, and the server
does nothing twice. Nothing is unpickled here, and nothing is read by length before the server has shown the key.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import threading
import weakref
from collections.abc import Callable

from multitask._engine import clock
from multitask._engine.queueing.remote import frames, sockets
from multitask.errors import ConnectionLost, WrongKey

PATIENCE_SECONDS = 10.0  # how long a lost connection is tried again, where connect() was given no timeout
PAUSES = (0.02, 1.0)  # between two tries: the first, and the longest


class Ask:
    """One request: ``frame`` is what to send for it, ``call`` is called once when it is over."""

    __slots__ = ("call", "content", "error", "given_up", "items", "kind", "number", "repeatable", "reply")

    def __init__(self, kind: int, content: list[frames.Buffer], *, repeatable: bool) -> None:
        self.kind = kind
        self.content = content
        self.repeatable = repeatable  # harmless when done twice: a server that has forgotten us is asked anew
        self.number = 0
        self.items: frames.Buffer | None = None  # the MESSAGES, before they are ours
        self.reply: tuple[int, frames.Buffer] | None = None
        self.error: Exception | None = None
        self.given_up = False
        self.call: Callable[[], object] = _nothing

    def over(self) -> bool:
        return self.reply is not None or self.error is not None


def _nothing() -> None:
    pass


class Line:
    """Where a RemoteQueue's requests go."""

    def __init__(self, address: tuple[str, int], key: bytes, timeout: float | None) -> None:
        self.address = address
        self.key = key
        self.patience = PATIENCE_SECONDS if timeout is None else timeout
        self.maxsize = 0
        self.kept: list[memoryview] = []  # MESSAGES that became ours when nobody waited for them any more
        self._lock = threading.RLock()
        self._open: dict[int, Ask] = {}
        self._last = 0
        self._session = secrets.token_bytes(frames.SESSION_BYTES)
        self._sock: socket.socket | None = None
        self._reader: threading.Thread | None = None
        self._sending = False
        self._unsent: list[list[frames.Buffer]] = []
        self._arriving = 0  # the request whose answer the reader is in the middle of
        self._ended = False
        self._owner = os.getpid()  # whose the connection is
        _lines.add(self)

    # --- asking ------------------------------------------------------------------------------------------

    def connected(self) -> bool:
        return self._reader is not None

    def ask(self, ask: Ask) -> None:
        """Send *ask*; its ``call`` is called when it is over. Blocks while the server is being reached.

        Raises ConnectionLost or WrongKey when it is not.
        """
        with self._lock:
            self.connect(self.patience, once=False)
            if ask.given_up:
                return
            self._last += 1
            ask.number = self._last
            self._open[ask.number] = ask
            self._send(ask.kind, ask.number, ask.content)

    def give_up(self, ask: Ask) -> bool:
        """Nobody waits for *ask* any more; what it brings all the same goes to the next who gets. False: too late."""
        with self._lock:
            ask.given_up = True
            if ask.over():
                self._keep(ask)
            elif ask.items is None:
                if self._open.pop(ask.number, None):
                    self._send(frames.CANCEL, ask.number, [])
                return True
            return False

    def may_still_come(self, ask: Ask) -> bool:
        """False: nothing of *ask* has come yet, and it was given up."""
        with self._lock:
            arriving = ask.number and self._arriving == ask.number  # to send a large one back would help nobody
            return bool(arriving) or ask.over() or ask.items is not None or not self.give_up(ask)

    def take_kept(self, most: int) -> list[memoryview]:
        """Messages that are ours already, at most *most*."""
        with self._lock:
            taken, self.kept = self.kept[:most], self.kept[most:]
            return taken

    def keep(self, messages: list[memoryview]) -> None:
        """*messages* are ours, and whoever asked for them is gone."""
        with self._lock:
            self.kept[:0] = messages

    def _keep(self, ask: Ask) -> None:
        if ask.kind != frames.GET or ask.reply is None or ask.reply[0] != frames.YOURS:
            return
        for other in self._open.values():
            if other.kind == frames.GET and other.items is None:
                del self._open[other.number]
                self._send(frames.CANCEL, other.number, [])
                other.reply = ask.reply
                other.call()
                return
        self.kept += frames.unpack_items(ask.reply[1])

    def hang_up(self) -> None:
        """Say good-bye: the server gives out again what was on its way to us."""
        if self._owner != os.getpid():  # dropped in a forked child before its hooks: the parent still talks there
            return
        with self._lock:
            self._ended = True
            if self.kept:
                self._last += 1
                self._send(frames.PUT, self._last, frames.put_content(frames.NEVER, [[each] for each in self.kept]))
                self.kept = []
            self._send(frames.BYE, 0, [])
            if self._sock is not None:
                _shut(self._sock)

    # --- sending -----------------------------------------------------------------------------------------

    def _send(self, kind: int, number: int, content: list[frames.Buffer]) -> None:
        """With the lock held. A failure is the reader's business: what is open will be sent again."""
        if self._sock is None:
            return
        data = frames.parts(kind, number, min(self._open, default=self._last + 1), *content)
        if self._sending:  # a signal's handler, in the middle of another frame
            self._unsent.append(data)
            return
        self._sending = True
        try:
            sockets.send(self._sock, data)
            while self._unsent:
                sockets.send(self._sock, self._unsent.pop(0))
        except OSError:
            _shut(self._sock)
        except BaseException:
            _shut(self._sock)  # Ctrl-C in the middle of a frame: this connection is of no use any more
            raise
        finally:
            self._sending = False
            self._unsent.clear()

    # --- connecting --------------------------------------------------------------------------------------

    def connect(self, seconds: float, *, once: bool) -> None:
        """Reach the server if there is no connection; *once*, or again and again for *seconds*."""
        with self._lock:
            if self._ended:
                raise ConnectionLost("the connection to the queue was ended with disconnect()")
            if self._reader is not None:
                return
            self._session = secrets.token_bytes(frames.SESSION_BYTES)
            sock, _ = self._reach(clock.monotonic() + seconds, once=once)
            self._sock = sock
            self._reader = threading.Thread(target=self._read, args=(sock,), name="multitask-remote", daemon=True)
            self._reader.start()

    def forked(self) -> None:
        """In the child connection and requests are the parent's; the next request makes a connection of its own."""
        if self._sock is not None:
            self._sock.close()
        self._lock = threading.RLock()
        self._sock = self._reader = None
        self._open, self.kept, self._unsent = {}, [], []
        self._sending = False
        self._owner = os.getpid()

    def _reach(self, end: float, *, once: bool) -> tuple[socket.socket, bool]:
        """A connection on which both have shown the key, and whether the server knows our session."""
        pause = PAUSES[0]
        while True:
            try:
                return self._greet(min(max(end - clock.monotonic(), 0.001), sockets.SILENCE_SECONDS))
            except (OSError, EOFError) as error:
                if once or clock.monotonic() + pause >= end:
                    host, port = self.address
                    raise ConnectionLost(
                        f"no queue can be reached at {host}:{port}",
                        why=str(error) or type(error).__name__,
                        fix="see that the process that calls serve() runs, and that address and port are its own",
                    ) from error
            threading.Event().wait(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, PAUSES[1])

    def _greet(self, seconds: float) -> tuple[socket.socket, bool]:
        sock = socket.create_connection(self.address, timeout=seconds)
        try:
            sockets.tune(sock)
            hello = _exactly(sock, frames.HELLO_BYTES)
            if not hello.startswith(frames.MAGIC):
                raise WrongKey("what answers there is not a queue that was served", fix="see the port")
            theirs, mine = hello[len(frames.MAGIC) :], secrets.token_bytes(frames.NONCE_BYTES)
            shown = frames.proof(self.key, b"client", theirs, mine, self._session)
            sock.sendall(frames.MAGIC + mine + self._session + shown)
            proof, known, patience, maxsize = frames.WELCOME.unpack(_exactly(sock, frames.WELCOME.size))
            if not frames.same(proof, frames.proof(self.key, b"server", theirs, mine, self._session)):
                raise WrongKey("the server has another authkey", fix="give both sides the same one")
            self.maxsize = maxsize
            self.patience = min(self.patience, patience)
            sock.settimeout(None)
            return sock, known
        except BaseException:
            sock.close()
            raise

    # --- the reader's thread -----------------------------------------------------------------------------

    def _read(self, sock: socket.socket | None) -> None:
        while sock is not None:
            try:
                sockets.listen_in_beats(sock)
                source = sockets.Source(sock, self._beat)
                while True:
                    head = frames.read_head(source.exactly(frames.HEAD_BYTES))
                    self._arriving = head.number
                    self._take(head.kind, head.number, source.exactly(head.length))
                    self._arriving = 0
            except (OSError, EOFError, ValueError):
                pass
            self._arriving = 0
            _shut(sock)  # who is in the middle of sending there must not wait any longer
            sock = self._again(sock)

    def _beat(self) -> None:
        """Say that we are here, unless somebody is sending, which says it as well."""
        if self._lock.acquire(blocking=False):
            try:
                self._send(frames.BEAT, 0, [])
            finally:
                self._lock.release()

    def _take(self, kind: int, number: int, content: frames.Buffer) -> None:
        with self._lock:
            ask = self._open.get(number)
            if ask is None:
                return
            if kind == frames.MESSAGES:
                if ask.items is None:
                    ask.items = content
                    self._send(frames.RECEIPT, number, [])
                return
            self._open.pop(number, None)
            ask.reply = (kind, content if ask.items is None else ask.items)
            if ask.given_up:
                self._keep(ask)
        ask.call()

    def _again(self, lost: socket.socket) -> socket.socket | None:
        """Another connection in the place of one that was lost, if anybody waits for something."""
        with self._lock:
            self._sock = None
            lost.close()
            if self._ended or not self._open:
                self._reader = None
                return None
        try:
            sock, known = self._reach(clock.monotonic() + self.patience, once=False)
        except (ConnectionLost, WrongKey) as error:
            with self._lock:
                failed = list(self._open.values())
                self._open.clear()
                self._reader = None
            for ask in failed:
                self._fail(ask, error)
            return None
        return self._resume(sock, known)

    def _resume(self, sock: socket.socket, known: bool) -> socket.socket:
        with self._lock:
            self._sock = sock
            # Copies and pops: a coroutine that the collector ends in here gives its question up.
            asked = [] if known else list(self._open.values())
            lost = [ask for ask in asked if not ask.repeatable or ask.items is not None]
            for ask in lost:
                self._open.pop(ask.number, None)
            self._send(frames.RESUME, 0, [frames.resume_content(list(self._open))])
            for ask in list(self._open.values()):
                if ask.items is not None:
                    self._send(frames.RECEIPT, ask.number, [])
                else:
                    self._send(ask.kind, ask.number, ask.content)
        for ask in lost:
            self._fail(ask, None)
        return sock

    def _fail(self, ask: Ask, cause: Exception | None) -> None:
        host, port = self.address
        if ask.items is not None:
            what = "messages had come, but not the word that they are ours: they are in the attribute 'items'"
        elif ask.kind == frames.GET:
            what = "nothing was got"
        else:
            what = "it is not known whether it was done" if not ask.repeatable else "it was not answered"
        why = "the server does not know this client any more" if cause is None else str(cause)
        error = ConnectionLost(f"the connection to the queue at {host}:{port} was lost; {what}", why=why)
        error.__cause__ = cause
        ask.error = error
        ask.call()


_lines: weakref.WeakSet[Line] = weakref.WeakSet()


def _forked() -> None:
    for line in list(_lines):
        line.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _exactly(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = sock.recv(length - len(data))
        if not more:
            raise EOFError("the other side closed the connection")
        data += more
    return data
