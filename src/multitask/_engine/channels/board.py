"""A page that a worker and its parent both see: what the worker has started, and its last words.

Written by the worker only, without a system call; read by the parent while the worker lives (start time) and after
its death (was the call started? at which item? what was its last note, how large was the worker?). A number is one
aligned store of eight bytes, and the order of stores is the order of the program, so a worker killed between two of
them leaves nothing misleading: the note's length is zero while its text changes.
"""

from __future__ import annotations

import mmap
import os
import tempfile

from multitask._engine import clock, notes

SIZE = mmap.PAGESIZE
TAKEN, ITEM, NOTE_SIZE = 0, 1, 2  # unsigned words
STARTED, NOTED = 3, 4  # floats: clock.monotonic()
RESIDENT = 5  # unsigned word
NOTE = 64  # offset of the text


def make() -> int:
    """The descriptor of a new page; it has no name anywhere."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("multitask-board")
        try:
            os.ftruncate(fd, SIZE)
        except BaseException:
            os.close(fd)
            raise
        return fd
    with tempfile.TemporaryFile() as file:
        file.truncate(SIZE)
        return os.dup(file.fileno())


class Board:
    """One side's view of the page."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE)
        self._words = memoryview(self._map).cast("Q")
        self._times = memoryview(self._map).cast("d")

    # --- worker

    def took(self, number: int) -> None:
        """The call with this number starts now."""
        self._words[NOTE_SIZE] = 0
        self._words[ITEM] = 0
        self._times[STARTED] = clock.monotonic()
        self._words[TAKEN] = number

    def item(self, index: int) -> None:
        """The call is at this item of its chunk."""
        self._words[ITEM] = index + 1

    def note(self, data: bytes) -> None:
        """The call's last words so far."""
        data = data[: notes.LIMIT]
        self._words[NOTE_SIZE] = 0
        self._map[NOTE : NOTE + len(data)] = data
        self._times[NOTED] = clock.monotonic()
        self._words[NOTE_SIZE] = len(data)

    def occupies(self, size: int) -> None:
        """The worker occupies so many bytes of the machine's memory."""
        self._words[RESIDENT] = size

    # --- parent

    @property
    def resident(self) -> int | None:
        """What it occupied when it last looked, None where it cannot tell."""
        return self._words[RESIDENT] or None

    @property
    def taken(self) -> int:
        """The number of the call started last; calls count from 1."""
        return self._words[TAKEN]

    @property
    def started(self) -> float:
        """When that call started."""
        return self._times[STARTED]

    @property
    def at_item(self) -> int | None:
        """At which item it is, if it says so."""
        return self._words[ITEM] - 1 if self._words[ITEM] else None

    @property
    def crumb(self) -> tuple[str, float] | None:
        """(its last note, age in seconds)."""
        size = self._words[NOTE_SIZE]
        if not size:
            return None
        return self._map[NOTE : NOTE + size].decode("utf-8", "replace"), clock.monotonic() - self._times[NOTED]

    def close(self) -> None:
        """Unmap the page."""
        self._words.release()
        self._times.release()
        self._map.close()
