"""What goes over the wire: the handshake's fixed messages, and frames after it. Pure: bytes in, bytes out.

Rule: nothing here unpickles, and before both sides have shown that they know the key, no length comes from the peer.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview

MAGIC = b"multitask queue 1\n"
NONCE_BYTES = 32
SESSION_BYTES = 16
PROOF_BYTES = 32
REFUSED = bytes(PROOF_BYTES)  # in the place of the server's proof: the client's was wrong

HELLO_BYTES = len(MAGIC) + NONCE_BYTES  # server: magic, nonce
ANSWER_BYTES = len(MAGIC) + NONCE_BYTES + SESSION_BYTES + PROOF_BYTES  # client: magic, nonce, session, proof
WELCOME = struct.Struct(f">{PROOF_BYTES}sBdq")  # server: proof, whether it knows the session, patience, maxsize

HEAD = struct.Struct(
    ">BQQQ"
)  # kind, number of the request, lowest number that is open at the client, bytes that follow
HEAD_BYTES = HEAD.size

# From the client.
PUT, GET, RECEIPT, CANCEL, CALL, RESUME, BYE = range(1, 8)
# From the server.
MESSAGES, YOURS, DONE, FAILED = range(16, 20)
# From both, again and again: somebody is there.
BEAT = 32

# An answer to GET ends with the message that brings it to so many of either; the client asks for the rest.
MOST_MESSAGES, MOST_BYTES = 1 << 14, 1 << 22

# What CALL asks for; all of them take and give numbers.
QSIZE, PUT_COUNT, GOT_COUNT, UNFINISHED, IS_SHUTDOWN, WAITING_TO_GET, WAITING_TO_PUT = range(7)
TASK_DONE, SHUTDOWN, JOIN, WAIT_READABLE, WAIT_WRITABLE = range(7, 12)

# Why FAILED.
FULL, EMPTY, SHUT, VALUE, MEMORY, LATE, CLOSED, OTHER = range(8)

NEVER, FOREVER = -2.0, -1.0  # in the place of a timeout

_CALL = struct.Struct(">Bd")
_WAIT = struct.Struct(">d")
_GET = struct.Struct(">dq")
_LENGTH = struct.Struct(">Q")
_NUMBER = struct.Struct(">q")
_FAILED = struct.Struct(">Bq")


class Head(NamedTuple):
    """What stands before every frame's content."""

    kind: int
    number: int
    lowest: int
    length: int


def parts(kind: int, number: int, lowest: int, *content: Buffer) -> list[Buffer]:
    """A frame in pieces, so that large ones need not be copied together."""
    return [HEAD.pack(kind, number, lowest, sum(map(len, content))), *content]


def frame(kind: int, number: int, lowest: int, *content: Buffer) -> bytes:
    """A whole frame."""
    return b"".join(parts(kind, number, lowest, *content))


def read_head(data: Buffer) -> Head:
    return Head(*HEAD.unpack(data))


# --- who knows the key --------------------------------------------------------------------------------------


def key_bytes(authkey: bytes | str | None) -> bytes:
    """The key as bytes; a clear error where there is none."""
    if authkey is None:
        raise TypeError("authkey= is missing: both sides give the same secret, as bytes or str")
    if isinstance(authkey, str):
        authkey = authkey.encode()
    if not isinstance(authkey, (bytes, bytearray)):
        raise TypeError(f"authkey is bytes or str, not {type(authkey).__name__}")
    if not authkey:
        raise ValueError("authkey is empty: whoever reaches the port could use the queue")
    return bytes(authkey)


def proof(key: bytes, who: bytes, server_nonce: bytes, client_nonce: bytes, session: bytes) -> bytes:
    """HMAC-SHA256 over both nonces and the session. *who* differs by side, so that no side's proof serves the other."""
    return hmac.digest(key, b"multitask queue " + who + server_nonce + client_nonce + session, "sha256")


def same(one: bytes, other: bytes) -> bool:
    """Whether both are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)


# --- contents -----------------------------------------------------------------------------------------------


Message = Sequence[Buffer]  # the pieces of one message


def pack_items(items: Sequence[Message]) -> list[Buffer]:
    """The parts of a content that carries several messages: their number, their lengths, themselves."""
    lengths = struct.pack(f">{len(items) + 1}Q", len(items), *map(size, items))
    return [lengths, *(part for item in items for part in item)]


def size(item: Message) -> int:
    """How many bytes one message has."""
    return sum(map(len, item))


def is_full(items: Iterable[Buffer], count: int) -> bool:
    """Whether an answer of *count* messages may have ended for its size, so that there may be more."""
    return count >= MOST_MESSAGES or sum(map(len, items)) >= MOST_BYTES


def unpack_items(content: Buffer, at: int = 0) -> list[memoryview]:
    """The messages that stand in *content* from *at* on; ValueError when they do not fit in it exactly."""
    view = memoryview(content)
    if at + 8 > len(content):
        raise ValueError("cut off")
    (count,) = _LENGTH.unpack_from(content, at)
    at += 8
    if count > (len(content) - at) // 8:
        raise ValueError("more messages than bytes")
    lengths = struct.unpack_from(f">{count}Q", content, at)
    at += 8 * count
    if sum(lengths) != len(content) - at:
        raise ValueError("the lengths do not add up")
    items = []
    for length in lengths:
        items.append(view[at : at + length])
        at += length
    return items


def put_content(timeout: float, items: Sequence[Message]) -> list[Buffer]:
    return [_WAIT.pack(timeout), *pack_items(items)]


def read_put(content: Buffer) -> tuple[float, list[memoryview]]:
    (timeout,) = _WAIT.unpack_from(content)
    return timeout, unpack_items(content, _WAIT.size)


def get_content(timeout: float, most: int) -> bytes:
    return _GET.pack(timeout, most)


def read_get(content: Buffer) -> tuple[float, int]:
    timeout, most = _GET.unpack(content)
    return timeout, most


def call_content(what: int, number: float) -> bytes:
    return _CALL.pack(what, number)


def read_call(content: Buffer) -> tuple[int, float]:
    what, number = _CALL.unpack(content)
    return what, number


def resume_content(numbers: list[int]) -> bytes:
    return struct.pack(f">{len(numbers)}Q", *numbers)


def read_resume(content: Buffer) -> set[int]:
    return set(struct.unpack(f">{len(content) // 8}Q", content))


def number_content(number: int) -> bytes:
    return _NUMBER.pack(number)


def read_number(content: Buffer) -> int:
    (number,) = _NUMBER.unpack(content)
    return int(number)


def failed_content(why: int, done: int, text: str) -> bytes:
    return _FAILED.pack(why, done) + text.encode()


def read_failed(content: Buffer) -> tuple[int, int, str]:
    why, done = _FAILED.unpack_from(content)
    return why, done, bytes(content[_FAILED.size :]).decode(errors="replace")
