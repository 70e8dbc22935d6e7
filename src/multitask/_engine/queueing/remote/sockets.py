"""Sockets as queues between machines need them: small messages at once, and the other side's death noticed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Any

# A machine that vanished without a word is noticed after about this long, also when nothing is to be sent.
IDLE_SECONDS, INTERVAL_SECONDS, PROBES = 5, 2, 3
UNACKNOWLEDGED_SECONDS = 12


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


def check(address: Any) -> tuple[str, int]:
    """*address* as (host, port); says what is wrong with another."""
    if not (isinstance(address, tuple) and len(address) >= 2):
        raise TypeError(f"address is a tuple (host, port), not {address!r}")
    host, port = address[:2]
    if not isinstance(host, str) or not isinstance(port, int):
        raise TypeError(f"address is a tuple (host, port) of str and int, not {address!r}")
    if not host:
        raise ValueError("the host is empty: name the interface, '127.0.0.1' for this machine only")
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
