"""Messages as bytes, and how they lie in the served queue: unread wherever the queue itself keeps bytes.

What a client puts is unpickled by who gets it. A queue in shared memory or on a file gets a Parcel, whose pickle says
"open this": whoever gets it in the server's family has the object, and the server, when it takes it for another client,
has the Parcel. Only a queue between threads holds objects: for it the server opens what an *authenticated* client put.
"""

from __future__ import annotations

import pickle
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from multitask._engine import envelope, family
from multitask._engine.queueing.remote import frames
from multitask.errors import CannotTravel

_RAW, _SEALED = b"r", b"s"
_LENGTHS = struct.Struct(">Q")


ALONE_BYTES = 1 << 16  # bytes from this size on are not copied to stand behind their mark


def seal(obj: Any) -> frames.Message:
    """*obj* for a process that need not be related to this one, in one piece or two; CannotTravel where that cannot be.

    What has to do with descriptors cannot, also where both happen to be on one machine.
    """
    if type(obj) is bytes:
        return [_RAW, obj] if len(obj) >= ALONE_BYTES else [_RAW + obj]
    try:
        with family.abroad():
            data, buffers = envelope.seal(obj, where="item")
    except CannotTravel:
        raise
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise CannotTravel(f"the item cannot be put on a queue of another machine: {error}") from error
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    lengths = struct.pack(f">{len(views) + 1}Q", len(views), *(view.nbytes for view in views))
    # A copy: the message may be sent again when the object is another by then.
    return [b"".join((_SEALED, lengths, *views, data))]


def open_sealed(data: frames.Buffer) -> Any:
    """The object again. This runs what the pickle says: only for what an authenticated peer has sent."""
    view = memoryview(data)
    if view[:1] == _RAW:
        return bytes(view[1:])
    (count,) = _LENGTHS.unpack_from(data, 1)
    lengths = struct.unpack_from(f">{count}Q", data, 9)
    at = 9 + 8 * count
    buffers = []
    for length in lengths:
        buffers.append(bytearray(view[at : at + length]))  # its own and writable, as what was sealed may have been
        at += length
    return envelope.open_sealed(bytes(view[at:]), buffers)


class Parcel:
    """A message that nobody has opened, as an item of the served queue."""

    __slots__ = ("data",)

    def __init__(self, data: frames.Buffer) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        small = len(self.data) < ALONE_BYTES
        return (open_parcel, (bytes(self.data) if small else pickle.PickleBuffer(self.data),))


_here = threading.local()


def open_parcel(data: Any) -> Any:
    """What unpickling a Parcel comes to: its content, or itself while the server takes it for another client."""
    view = data if type(data) is bytes else memoryview(data).cast("B")
    return Parcel(view) if getattr(_here, "unopened", False) else open_sealed(view)


@contextmanager
def unopened() -> Iterator[None]:
    """Parcels that this thread gets stay closed."""
    _here.unopened = True
    try:
        yield
    finally:
        _here.unopened = False
