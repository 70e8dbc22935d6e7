"""Sockets as queues between machines need them: small messages at once, and the other side's death noticed."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from multitask._engine import clock

# A machine that vanished without a word is noticed after about this long, also when nothing is to be sent.
IDLE_SECONDS, INTERVAL_SECONDS, PROBES = 5, 2, 3
UNACKNOWLEDGED_SECONDS = 12

# A process that is stopped, or a network that swallows everything while the machine is there, is noticed by its
# silence: both sides say something that often, and hang up on one of whom nothing was heard for that long.
BEAT_SECONDS, SILENCE_SECONDS = 3.0, 12.0
TOGETHER_BYTES = 1 << 16  # up to this size pieces are sent as one
PIECES = 64  # in one system call


def tune(sock: Any) -> None:
    """No waiting for more to send; keepalive, as far as the platform has it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", IDLE_SECONDS),
        ("TCP_KEEPINTVL", INTERVAL_SECONDS),
        ("TCP_KEEPCNT", PROBES),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_SECONDS * 1000),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def listen_in_beats(sock: socket.socket) -> None:
    """recv raises BlockingIOError when nothing has come for a beat, send when nothing could go for a silence."""
    for option, seconds in ((socket.SO_RCVTIMEO, BEAT_SECONDS), (socket.SO_SNDTIMEO, SILENCE_SECONDS)):
        whole, rest = divmod(seconds, 1)
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(whole), int(rest * 1e6)))


def send(sock: Any, parts: Sequence[bytes | bytearray | memoryview]) -> None:
    """All of *parts*, without copying large ones together. Raises OSError."""
    if sum(map(len, parts)) <= TOGETHER_BYTES or not hasattr(sock, "sendmsg"):
        sock.sendall(b"".join(parts))
        return
    left = [memoryview(part) for part in parts if len(part)]
    at = 0  # which of them is next
    while at < len(left):
        sent = sock.sendmsg(left[at : at + PIECES])
        while at < len(left) and sent >= len(left[at]):
            sent -= len(left[at])
            at += 1
        if sent:
            left[at] = left[at][sent:]


class Source:
    """The reading side of a client's socket. *beat* is called every few seconds, also while nothing comes."""

    def __init__(self, sock: socket.socket, beat: Callable[[], None]) -> None:
        self._sock = sock
        self._beat = beat
        self._ahead = bytearray(TOGETHER_BYTES)
        self._from = self._to = 0
        self._due = clock.monotonic() + BEAT_SECONDS

    def exactly(self, length: int) -> bytes | bytearray:
        """The next *length* bytes. Raises EOFError when the other side goes, or is silent for too long; OSError."""
        if self._to - self._from >= length:
            self._from += length
            return bytes(memoryview(self._ahead)[self._from - length : self._from])
        data = bytearray(length)
        done = self._to - self._from
        view = memoryview(data)
        view[:done] = memoryview(self._ahead)[self._from : self._to]
        self._from = self._to = 0
        while done < length:
            if length - done >= TOGETHER_BYTES:
                done += self._some(view[done:])
                continue
            self._to = self._some(memoryview(self._ahead))
            self._from = min(self._to, length - done)
            view[done : done + self._from] = memoryview(self._ahead)[: self._from]
            done += self._from
        return data

    def _some(self, into: memoryview) -> int:
        silence = 0.0
        while True:
            try:
                got = self._sock.recv_into(into)
            except BlockingIOError:
                silence += BEAT_SECONDS  # and not the clock: if it was us who slept, the other side is not to blame
                got = -1
            if clock.monotonic() >= self._due or got < 0:
                self._beat()
                self._due = clock.monotonic() + BEAT_SECONDS
            if got > 0:
                return got
            if got == 0:
                raise EOFError("the other side closed the connection")
            if silence >= SILENCE_SECONDS:
                raise EOFError(f"nothing was heard of the other side for {SILENCE_SECONDS:g} s")


def check(address: Any) -> tuple[str, int]:
    """*address* as (host, port); says what is wrong with another."""
    if not (isinstance(address, tuple) and len(address) >= 2):
        raise TypeError(f"address is a tuple (host, port), not {address!r}")
    host, port = address[:2]
    if not isinstance(host, str) or not isinstance(port, int):
        raise TypeError(f"address is a tuple (host, port) of str and int, not {address!r}")
    if not host:
        raise ValueError("the host is empty: name the interface, '127.0.0.1' for this machine only")
    if not 0 <= port <= 65535:  # getaddrinfo() would take it modulo 65536
        raise ValueError(f"the port of host {host} is a number from 0 to 65535, not {port}")
    return host, port


def listen(address: Any, backlog: int) -> socket.socket:
    """A listening socket on *address*, IPv4 or IPv6 as the host says."""
    host, port = check(address)
    family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(where[:2], family=family, backlog=backlog)


def let_go(socks: Iterable[Any]) -> None:
    """In the child of a fork: the parent's connections are not held open by it. The numbers stay taken, for objects of
    the parent's copy close them when they go."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for sock in socks:
        try:
            number = sock.fileno()
            if number >= 0:
                os.dup2(null, number, inheritable=False)
        except OSError:
            pass
    os.close(null)
