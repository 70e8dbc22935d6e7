"""The file of a FileQueue: a page that says how things stand, then the items, one after the other.

    0      commit      how often the state was changed; its low bit says which of the two slots holds it
    8      busy        1 while somebody who has the lock is at work: found set, the last one died or was interrupted
    16     maxsize
    64     slot 0      one State
    192    slot 1
    4096   records     number of buffers, length of the pickle and of each buffer, then their bytes

Rule: all but ``look`` happens under the queue's lock. A record is written where nothing counts yet, then a State
into the slot that does not count, then the commit word: a process that dies in between has changed nothing.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from multitask._engine.pieces import read_at, write_at

PAGE = 4096
KEEP_BYTES = 4 << 20  # a file that has grown beyond this is cut when it is empty, and moved up when half is read
READ_AHEAD = 2 << 10

WORD = struct.Struct("Q")
BUSY, MAXSIZE = 8, 16
SLOTS = (64, 192)
STATE = struct.Struct("6Q")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Record = list[bytes | memoryview]


class State(NamedTuple):
    """How the queue stands; ``head`` and ``tail`` are positions in the file."""

    head: int = PAGE
    tail: int = PAGE
    put: int = 0
    got: int = 0
    unfinished: int = 0
    shut: int = 0

    @property
    def size(self) -> int:
        return self.put - self.got


def new_file(maxsize: int) -> int:
    """A descriptor of a new file without a name, ready to be a Log."""
    with tempfile.TemporaryFile(buffering=0) as file:
        page = bytearray(PAGE)
        WORD.pack_into(page, MAXSIZE, maxsize)
        STATE.pack_into(page, SLOTS[0], *State())
        file.write(page)
        return os.dup(file.fileno())


def record(pickle: bytes, buffers: Sequence[memoryview]) -> Record:
    """What ``Log.append`` takes: the item in pieces."""
    lengths = [len(pickle), *(buffer.nbytes for buffer in buffers)]
    head = struct.pack(f"<{1 + len(lengths)}Q", len(buffers), *lengths)
    return [head, pickle, *(buffer.cast("B") for buffer in buffers)]


class Log:
    """The records and the page; ``fd`` reads and writes the file."""

    __slots__ = ("_page", "maxsize")

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, PAGE)
        self.maxsize: int = WORD.unpack_from(self._page, MAXSIZE)[0]

    def close(self) -> None:
        self._page.close()

    # --- the page --------------------------------------------------------------------------------------------

    def look(self) -> State:
        """The state at one moment of the call; needs no lock."""
        page = self._page
        while True:
            (commit,) = WORD.unpack_from(page, 0)
            state = State._make(STATE.unpack_from(page, SLOTS[commit & 1]))
            if WORD.unpack_from(page, 0)[0] == commit:
                # While it is current, nobody writes into its slot.
                return state

    def commit(self, state: State) -> None:
        page = self._page
        (commit,) = WORD.unpack_from(page, 0)
        STATE.pack_into(page, SLOTS[~commit & 1], *state)
        WORD.pack_into(page, 0, commit + 1)

    @property
    def busy(self) -> bool:
        return self._page[BUSY] != 0

    @busy.setter
    def busy(self, on: bool) -> None:
        self._page[BUSY] = on

    # --- the records -----------------------------------------------------------------------------------------

    def append(self, fd: int, tail: int, records: Sequence[Record]) -> int:
        """Write them from *tail* on; returns where the last one ends. MemoryError when the file cannot grow."""
        try:
            for pieces in records:
                for piece in pieces:
                    tail = write_at(fd, piece, tail)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise MemoryError(f"the file of the queue cannot grow ({error.strerror})") from error
            raise
        return tail

    def take(self, fd: int, head: int, tail: int, most: int) -> tuple[list[list[memoryview]], int]:
        """Read at most *most* records from *head* on; returns their parts and where the last one ends."""
        found: list[list[memoryview]] = []
        window = memoryview(b"")
        at = head  # of the window
        while len(found) < most and head < tail:
            parts = _parts(window[head - at :])
            if parts is None:
                need = _length(window[head - at :])
                ahead = READ_AHEAD if most == 1 else READ_AHEAD * 128
                window, at = read_at(fd, head, min(tail - head, max(need, ahead))), head
                continue
            found.append(parts[0])
            head += parts[1]
        return found, head

    def leave(self, fd: int, state: State) -> State:
        """Commit *state*, whose head has moved on, and give back what was read; returns the state as it stands then."""
        left, read = state.tail - state.head, state.head - PAGE
        if not left:
            state = state._replace(head=PAGE, tail=PAGE)
            self.commit(state)
        else:
            self.commit(state)
            if read < KEEP_BYTES or read < left:
                return state
            end = PAGE
            # Read is at least what is left: nothing is written over before it has counted.
            for at in range(state.head, state.tail, KEEP_BYTES):
                end = write_at(fd, read_at(fd, at, min(KEEP_BYTES, state.tail - at)), end)
            state = state._replace(head=PAGE, tail=end)
            self.commit(state)
        if read > KEEP_BYTES:
            self.cut(fd, state)
        return state

    def cut(self, fd: int, state: State) -> None:
        """Let the file end where the records end."""
        os.ftruncate(fd, state.tail)


def _length(window: memoryview) -> int:
    """How many bytes of a record have to be there before it can be read; a guess while its head is not."""
    if len(window) < 16:
        return 0
    buffers = WORD.unpack_from(window, 0)[0]
    head = 8 * (2 + buffers)
    if len(window) < head:
        return int(head)
    return int(head + sum(struct.unpack_from(f"<{1 + buffers}Q", window, 8)))


def _parts(window: memoryview) -> tuple[list[memoryview], int] | None:
    """The pickle and the buffers of the record that *window* begins with, and its length; None: not all is there."""
    need = _length(window)
    if not 0 < need <= len(window):
        return None
    buffers = WORD.unpack_from(window, 0)[0]
    at = 8 * (2 + buffers)
    parts = []
    for length in struct.unpack_from(f"<{1 + buffers}Q", window, 8):
        parts.append(window[at : at + length])
        at += length
    return parts, at
