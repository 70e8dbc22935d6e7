"""Whole pieces of files, at a place: what a system reads or writes in one call may be less."""

from __future__ import annotations

import os

AT_ONCE = 1 << 30  # no system reads or writes more than 2 GiB in a call


def write_at(fd: int, piece: bytes | memoryview, at: int) -> int:
    """Write all of *piece*, bytes; returns where it ends."""
    view = memoryview(piece)
    while view:
        done = os.pwrite(fd, view[:AT_ONCE], at)
        at += done
        view = view[done:]
    return at


def read_at(fd: int, at: int, length: int) -> memoryview:
    """Exactly *length* bytes, in memory that may be written to. EOFError when there are fewer."""
    whole = bytearray(length)
    view = memoryview(whole)
    done = 0
    while done < length:
        chunk = os.pread(fd, min(length - done, AT_ONCE), at + done)
        if not chunk:
            raise EOFError("the file is shorter than what it holds says")
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    return view
