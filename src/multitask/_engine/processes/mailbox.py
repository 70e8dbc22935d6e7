"""What a process is given and what it answers, in an anonymous file that its parent and it have open.

Rule: the state is written last, in one write; who finds it may read the content. Only one side writes at a time: the
parent before the start, the child while it lives.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any

from multitask._engine.pieces import read_at, write_at
from multitask._engine.workers import forking

EMPTY, CALL, RESULT, ERROR = range(4)

_HEAD = struct.Struct("=QQ")  # state, number of parts
_SIZE = struct.Struct("=Q")


def make() -> int:
    """A new, empty mailbox: a descriptor that no forked child keeps."""
    with forking.gate:
        if hasattr(os, "memfd_create"):
            return forking.own(os.memfd_create("multitask-process", os.MFD_CLOEXEC))
        import tempfile

        with tempfile.TemporaryFile() as file:
            return forking.own(os.dup(file.fileno()))


def write(fd: int, state: int, parts: Sequence[Any]) -> None:
    """Put *parts*, things with a buffer, into the mailbox under *state*. OSError or MemoryError leave it EMPTY."""
    views = [memoryview(part).cast("B") for part in parts]
    sizes = b"".join(_SIZE.pack(view.nbytes) for view in views)
    clear(fd)
    at = _HEAD.size
    for view in (memoryview(sizes), *views):
        at = write_at(fd, view, at)
    os.pwrite(fd, _HEAD.pack(state, len(views)), 0)


def read(fd: int) -> tuple[int, list[memoryview]]:
    """The state and the parts, each in memory of its own; no parts when it is EMPTY."""
    head = os.pread(fd, _HEAD.size, 0)
    if len(head) < _HEAD.size:
        return EMPTY, []
    state, count = _HEAD.unpack(head)
    at = _HEAD.size + count * _SIZE.size
    parts = []
    for (size,) in _SIZE.iter_unpack(os.pread(fd, count * _SIZE.size, _HEAD.size)):
        parts.append(read_at(fd, at, size))
        at += size
    return state, parts


def size(fd: int) -> int:
    """How many bytes it holds."""
    return os.fstat(fd).st_size


def clear(fd: int) -> None:
    """Empty it."""
    os.ftruncate(fd, 0)
