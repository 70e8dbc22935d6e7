"""Messages as bytes, for channels that are streams.

    head (32 bytes: kind, number of buffers, text length, mode, number, data length)
    sizes of the buffers (8 bytes each) | text | data | buffers

A reader gives ``Frames`` the bytes as they come, in pieces of any size; a message whose sender died half way simply
never comes out. Of one that does not fit into the reader's memory the content is dropped: in its place comes a parcel
that raises MemoryError when it is loaded, so that it fails the call it belongs to and nothing else.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Generator
from pickle import PickleBuffer
from typing import Any

from multitask._engine.channels import kinds
from multitask._engine.wire import Parcel

Message = tuple[Any, ...]

LARGEST = 1 << 47  # more than a process can address
BLOCK = 1 << 16  # dropped at once
HEAD = struct.Struct("<B3xIIiqQ")
WITH_PARCEL = frozenset({kinds.CALL, kinds.DEFINE, kinds.OK, kinds.ERROR, kinds.BROKEN})


def frame(kind: int, *content: Any) -> list[memoryview]:
    """The pieces to be written for one message; content as listed in ``kinds``."""
    number = mode = 0
    text = b""
    parcel = content[-1] if kind in WITH_PARCEL else Parcel(b"")
    if kind == kinds.CALL:
        number, mode = content[0], content[1]
    elif kind == kinds.DEFINE:
        number = content[0]
        if content[1] is not None:
            mode, text = 1, content[1].encode("utf-8", "surrogatepass")
    elif kind == kinds.FORGET:
        parcel = Parcel(struct.pack(f"<{len(content[0])}q", *content[0]))
    elif kind == kinds.BYE:
        text = content[0].encode("utf-8", "surrogatepass")
    buffers = [PickleBuffer(buffer).raw() for buffer in parcel.buffers]
    head = HEAD.pack(kind, len(buffers), len(text), mode, number, len(parcel.data))
    sizes = struct.pack(f"<{len(buffers)}Q", *(len(buffer) for buffer in buffers))
    small = head + sizes + text
    if len(parcel.data) <= 65536:
        pieces = [memoryview(small + parcel.data)]
    else:
        pieces = [memoryview(small), memoryview(parcel.data)]
    return pieces + [buffer for buffer in buffers if len(buffer)]


class Frames:
    """Puts messages together. Fill ``want`` (all of it), then call ``filled``; or ``feed`` bytes of any length."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._steps = self._parse()
        self.want = next(self._steps)

    def filled(self) -> None:
        """``want`` has been filled to its end."""
        self.want = next(self._steps)

    def advance(self, count: int) -> None:
        """The first *count* bytes of ``want`` have been filled."""
        if count == len(self.want):
            self.filled()
        else:
            self.want = self.want[count:]

    def feed(self, data: memoryview) -> None:
        """Take in all of *data*."""
        while len(data):
            count = min(len(data), len(self.want))
            self.want[:count] = data[:count]
            data = data[count:]
            self.advance(count)

    def _parse(self) -> Generator[memoryview, None, None]:
        while True:
            head = bytearray(HEAD.size)
            yield memoryview(head)
            kind, count, text_size, mode, number, data_size = HEAD.unpack(head)
            if kind not in kinds.NAMES:
                raise ValueError(f"{kind} is no kind of message: something else wrote into this channel")
            sizes = bytearray(8 * count)
            if sizes:
                yield memoryview(sizes)
            text = bytearray(text_size)
            if text:
                yield memoryview(text)
            parcel = yield from _parcel([data_size, *(size for (size,) in struct.iter_unpack("<Q", sizes))])
            self.messages.append(_message(kind, mode, number, text.decode("utf-8", "surrogatepass"), parcel))
            del parcel


def _parcel(sizes: list[int]) -> Generator[memoryview, None, Parcel]:
    left = total = sum(sizes)
    if total > LARGEST:
        raise ValueError(f"a message of {total} bytes: something else wrote into this channel")
    pieces: list[bytearray] = []  # writable, so that what is rebuilt on them is
    try:
        for size in sizes:
            piece = bytearray(size)
            pieces.append(piece)
            if size:
                yield memoryview(piece)
                left -= size
        return Parcel(bytes(pieces[0]), tuple(memoryview(piece) for piece in pieces[1:]))
    except MemoryError:
        pieces.clear()
    while left:
        dropped = memoryview(bytearray(min(left, BLOCK)))
        yield dropped
        left -= len(dropped)
    return Parcel(pickle.dumps(_TooLarge(total)))


class _TooLarge:
    """Its pickle raises MemoryError."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __reduce__(self) -> Any:
        return _no_room, (self._size,)


def _no_room(size: int) -> None:
    raise MemoryError(f"there was no room for a message of {size} bytes")


def _message(kind: int, mode: int, number: int, text: str, parcel: Parcel) -> Message:
    if kind == kinds.CALL:
        return kind, number, mode, parcel
    if kind == kinds.DEFINE:
        return kind, number, text if mode else None, parcel
    if kind == kinds.FORGET:
        return kind, [each for (each,) in struct.iter_unpack("<q", parcel.data)]
    if kind == kinds.BYE:
        return kind, text
    if kind in WITH_PARCEL:
        return kind, parcel
    return (kind,)
