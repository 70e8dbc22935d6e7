"""The fork server as the user's process sees it: started when first needed, and again when it died.

One server serves all pools and threads of a process. Each worker has a line of its own to the server: over
it come the pid, a descriptor of the process and, when asked for, the exit status. So two threads never share
a conversation, and one that is interrupted in the middle (Ctrl-C) just drops its line, upon which the server
kills what it had started for it.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator, Sequence

from multitask._engine.workers import forking, launching, lifeline
from multitask._engine.workers.messages import ANSWER, BOUND, FREE, MOST_DESCRIPTORS, REAP, UNKNOWN, receive
from multitask.errors import PoolBroken  # now: when no descriptor is left, it is too late

ANSWER_SECONDS = 20.0  # a server that takes longer is stopped or broken, and replaced
GOODBYE_SECONDS = 0.5  # between the closing of a dead server's lines and its death being seen
ATTEMPTS = 3

_lock = threading.RLock()  # held while a server is started or replaced
_server: Server | None = None


class ServerGone(Exception):
    """The server died, or does not answer, and another one has to be started."""


def _socketpair() -> tuple[int, int]:
    """The descriptors of a pair of connected sockets; both are owned."""
    with forking.gate:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return forking.own(ours.detach()), forking.own(theirs.detach())


@contextlib.contextmanager
def _socket(fd: int) -> Iterator[socket.socket]:
    """A socket object around *fd* for a moment: kept longer, it would close a stranger's number in a forked child."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
    try:
        end.settimeout(ANSWER_SECONDS)
        yield end
    finally:
        end.detach()


class Server:
    """One running fork server. ``post`` may be called by any thread."""

    def __init__(self) -> None:
        self.pid = 0
        self._pidfd = -1
        self._requests, theirs = _socketpair()
        order_read, order_write = forking.pipe()
        try:
            line = lifeline.read_end()
            order = launching.write_order({}, requests=theirs, lifeline=line)
            self.pid = launching.launch("serving", order_read, (theirs, line), "multitask-fork-server")
            with forking.gate:
                self._pidfd = forking.own(os.pidfd_open(self.pid))
            forking.disown(order_read)
            order_read = -1
            launching.send(order_write, order)
        except BaseException:
            self.close()
            raise
        finally:
            forking.disown(theirs)
            forking.disown(order_write)
            if order_read >= 0:
                forking.disown(order_read)

    def descriptors(self) -> tuple[int, ...]:
        return (self._requests, self._pidfd)

    def post(self, fds: Sequence[int], bound: bool) -> None:
        """Hand a request to the server; the descriptors are copied."""
        rights = array.array("i", fds)
        try:
            with _socket(self._requests) as end:
                end.sendmsg(
                    [BOUND if bound else FREE], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL
                )
        except (TimeoutError, ConnectionError, BrokenPipeError):
            raise ServerGone from None

    def dead(self, seconds: float = 0.0) -> bool:
        """Whether it has ended, or does so within *seconds*."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def abandon(self) -> None:
        """In a forked child: the server is the parent's, and its descriptors are closed here."""
        self.pid, self._pidfd, self._requests = 0, -1, -1

    def close(self) -> None:
        """Kill the server and forget it; its workers go on."""
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):  # somebody else reaped it
                pass
            self.pid = 0
        if self._pidfd >= 0:
            forking.disown(self._pidfd)
            self._pidfd = -1
        if self._requests >= 0:
            forking.disown(self._requests)
            self._requests = -1


class Line:
    """The line to the server of one worker that it forked."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def answer(self, server: Server) -> tuple[int, int]:
        """Wait for the worker: its pid and a pidfd."""
        try:
            with _socket(self._fd) as end:
                content, rights = receive(end, ANSWER.size, 1)
        except (TimeoutError, ConnectionError):
            raise ServerGone from None
        if len(content) < ANSWER.size:
            if server.dead(GOODBYE_SECONDS):
                raise ServerGone
            raise OSError(errno.EMFILE, "the fork server has no descriptors left")
        pid, error = ANSWER.unpack(content)
        if error:
            raise OSError(error, os.strerror(error))
        if not rights:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return pid, rights[0]

    def reap(self) -> tuple[int, int]:
        """Have the server reap the worker, which has ended: (ENDED, exit code), (RUNNING, 0) or (UNKNOWN, 0)."""
        try:
            with _socket(self._fd) as end:
                end.send(REAP, socket.MSG_NOSIGNAL)
                content = end.recv(ANSWER.size)
        except OSError:
            return UNKNOWN, 0
        return ANSWER.unpack(content) if len(content) == ANSWER.size else (UNKNOWN, 0)

    def close(self) -> None:
        """Drop the line. If the worker still runs, the server kills it and its group."""
        if self._fd >= 0:
            forking.disown(self._fd)
            self._fd = -1


def fork_worker(fds: Sequence[int], bound: bool = True) -> tuple[int, int, Line]:
    """Have the server fork a worker that gets *fds* (its order first); returns its pid, a pidfd and its line.

    The pidfd is owned. A server that died or hangs is replaced.
    """
    if len(fds) > MOST_DESCRIPTORS:
        raise ValueError(f"{len(fds)} descriptors for one worker, at most {MOST_DESCRIPTORS} can be sent")
    for _ in range(ATTEMPTS):
        server = _running()
        ours, theirs = _socketpair()
        line = Line(ours)
        try:
            try:
                server.post((theirs, *fds), bound)
            finally:
                forking.disown(theirs)
            pid, pidfd = line.answer(server)
            with forking.gate:
                return pid, forking.own(pidfd), line
        except ServerGone:
            line.close()
            _replace(server)
        except BaseException:
            line.close()
            raise
    raise PoolBroken(
        f"the fork server did not start a worker in {ATTEMPTS} attempts",
        why="each time it died or did not answer",
        fix='look at its messages on stderr, or use start_method="spawn"',
    )


def _running() -> Server:
    global _server
    with _lock:
        if _server is not None and _server.dead():
            _server.close()
            _server = None
        if _server is None:
            _server = Server()
        return _server


def _replace(gone: Server) -> None:
    global _server
    with _lock:
        if _server is gone:
            _server = None
            gone.close()


def stop() -> None:
    """End the fork server, if there is one; the next worker starts another."""
    server = _server
    if server is not None:
        _replace(server)


def _forget() -> None:
    global _lock, _server
    _lock = threading.RLock()
    if _server is not None:
        _server.abandon()
    _server = None


forking.in_forked_child(_forget)


def server_pid() -> int | None:
    """The pid of this process's fork server, if one was started."""
    server = _server
    return server.pid if server else None


def server_descriptors() -> tuple[int, ...]:
    """Descriptors that stay open for later workers once the first one was started."""
    server = _server
    return (*lifeline.descriptors(), *(server.descriptors() if server else ()))
