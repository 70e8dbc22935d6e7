"""A raw peer for queues between machines: speaks the protocol by hand, and stops wherever a test wants."""

from __future__ import annotations

import secrets
import socket

from multitask._engine.queueing.remote import frames

KEY = b"key of the tests"


def exactly(sock, length):
    data = b""
    while len(data) < length:
        more = sock.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


class Peer:
    """A client whose every byte the test writes. Numbers of requests are the test's."""

    def __init__(self, address, session=None, key=KEY):
        self.session = session or secrets.token_bytes(frames.SESSION_BYTES)
        self.sock = socket.create_connection(address, timeout=30)
        hello = exactly(self.sock, frames.HELLO_BYTES)
        theirs, mine = hello[len(frames.MAGIC) :], secrets.token_bytes(frames.NONCE_BYTES)
        shown = frames.proof(key, b"client", theirs, mine, self.session)
        self.sock.sendall(frames.MAGIC + mine + self.session + shown)
        welcome = frames.WELCOME.unpack(exactly(self.sock, frames.WELCOME.size))
        self.refused, self.known = welcome[0] == frames.REFUSED, bool(welcome[1])

    def send(self, kind, number, *content, lowest=0):
        self.sock.sendall(frames.frame(kind, number, lowest, *content))

    def receive(self):
        """(kind, number, content) of the next frame."""
        head = frames.read_head(exactly(self.sock, frames.HEAD_BYTES))
        while head.kind == frames.BEAT:
            head = frames.read_head(exactly(self.sock, frames.HEAD_BYTES))
        return head.kind, head.number, exactly(self.sock, head.length)

    def put(self, number, *items):
        self.send(frames.PUT, number, *frames.put_content(frames.FOREVER, [[item] for item in items]))

    def get(self, number, most=1):
        self.send(frames.GET, number, frames.get_content(frames.FOREVER, most))

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
