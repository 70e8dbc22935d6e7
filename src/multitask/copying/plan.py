"""What a copy has to do, and in which order: found entries go in, batches of work come out.

Pure: no files, clocks or threads. The walk says what it found, the run asks for the next batch.

Order: large files first (a large one begun last would keep one worker busy alone), then the rest as found.
Several small folders share a batch, a huge flat folder is cut into many: a message costs as much as copying a
small file, so it must carry many of them, and a worker must not be given everything that is left.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

BATCH_ENTRIES = 256
BATCH_BYTES = 8 << 20
LARGE_BYTES = 16 << 20
MOST_TRIES = 3


class Part(NamedTuple):
    """Some entries of one folder; ``folder`` is its path below the roots, "" for the roots themselves."""

    folder: str
    files: tuple[str, ...]
    links: tuple[str, ...]


class Batch(NamedTuple):
    """What a worker does in one go. ``number`` is never given twice: the temporary file is named after it."""

    number: int
    parts: tuple[Part, ...]
    bytes: int
    tries: int = 1

    @property
    def entries(self) -> int:
        """How many files and links it holds."""
        return sum(len(part.files) + len(part.links) for part in self.parts)

    @property
    def paths(self) -> list[str]:
        """Every file and link of it, below the root."""
        return [join(part.folder, name) for part in self.parts for name in (*part.files, *part.links)]


class Folder(NamedTuple):
    """A folder of the source as it was before anything in it was read; fields as in ``os.stat_result``."""

    path: str
    st_mode: int
    st_uid: int
    st_gid: int
    st_atime_ns: int
    st_mtime_ns: int


@dataclass
class Found:
    """What the walk has found so far; a total once it is over."""

    files: int = 0
    links: int = 0
    folders: int = 0
    others: int = 0
    bytes: int = 0

    @property
    def entries(self) -> int:
        """Everything with a name, the root included."""
        return self.files + self.links + self.folders + self.others


@dataclass
class Plan:
    """The work of one copy: what was found, what waits, and which folders are finished last.

    Rule: an entry is in exactly one of the open part, one waiting batch, or a batch that was taken.
    """

    batch_entries: int = BATCH_ENTRIES
    batch_bytes: int = BATCH_BYTES
    large_bytes: int = LARGE_BYTES
    found: Found = field(default_factory=Found)
    complete: bool = False
    folders: list[Folder] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._waiting: deque[Batch] = deque()
        self._large: deque[Batch] = deque()
        self._parts: list[Part] = []
        self._folder = ""
        self._files: list[str] = []
        self._links: list[str] = []
        self._weight = 0
        self._bytes = 0
        self._number = 0
        self._announced = True  # whether the open folder stands in a part already

    # --- the walk tells
    def enter(self, folder: Folder) -> None:
        """From here on files and links lie in *folder*; it is made even if it stays empty."""
        self._end_part()
        self._announced = False
        self._folder = folder.path
        self.folders.append(folder)
        self.found.folders += 1
        self._weight += 1
        self._cut_when_full()

    def file(self, name: str, size: int) -> None:
        """A regular file of the folder entered last."""
        self.found.files += 1
        self.found.bytes += size
        if size >= self.large_bytes:
            self._large.append(self._batch((Part(self._folder, (name,), ()),), size))
            return
        self._files.append(name)
        self._bytes += size
        self._weight += 1
        self._cut_when_full()

    def link(self, name: str) -> None:
        """A symbolic link of the folder entered last."""
        self.found.links += 1
        self._links.append(name)
        self._weight += 1
        self._cut_when_full()

    def other(self) -> None:
        """A fifo, a device, a socket: counted, never read."""
        self.found.others += 1

    def unreadable(self) -> None:
        """A folder that cannot be entered: counted, its content stays unknown."""
        self.found.folders += 1

    def close(self) -> None:
        """The walk is over: what is open becomes the last batch."""
        self._end_part()
        self._cut()
        self.complete = True

    # --- the run asks
    def take(self) -> Batch | None:
        """The next batch, None when none waits (now, or for good when ``complete``)."""
        if self._large:
            return self._large.popleft()
        if self._waiting:
            return self._waiting.popleft()
        return None

    @property
    def waiting(self) -> int:
        """Batches that wait to be taken."""
        return len(self._large) + len(self._waiting)

    @property
    def untaken(self) -> int:
        """Files and links that no worker has been given."""
        open_parts = sum(len(part.files) + len(part.links) for part in self._parts)
        batches = sum(batch.entries for queue in (self._large, self._waiting) for batch in queue)
        return batches + open_parts + len(self._files) + len(self._links)

    def lost(self, batch: Batch) -> bool:
        """A worker died over *batch*: put it back in smaller pieces, or return False when it is given up.

        Halving finds the entry that kills workers; everything beside it gets copied.
        """
        if batch.entries > 1:
            for parts in halves(batch.parts):
                self._waiting.appendleft(self._batch(parts, batch.bytes // 2))
        elif batch.tries < MOST_TRIES:
            self._waiting.appendleft(self._batch(batch.parts, batch.bytes, batch.tries + 1))
        else:
            return False
        return True

    # --- inside
    def _batch(self, parts: tuple[Part, ...], size: int, tries: int = 1) -> Batch:
        self._number += 1
        return Batch(self._number, parts, size, tries)

    def _end_part(self) -> None:
        # A folder without entries gets a part too, or nobody would make it.
        if self._files or self._links or not self._announced:
            self._parts.append(Part(self._folder, tuple(self._files), tuple(self._links)))
            self._announced = True
            self._files.clear()
            self._links.clear()

    def _cut_when_full(self) -> None:
        if self._weight >= self.batch_entries or self._bytes >= self.batch_bytes:
            self._end_part()
            self._cut()

    def _cut(self) -> None:
        if self._parts:
            self._waiting.append(self._batch(tuple(self._parts), self._bytes))
        self._parts.clear()
        self._weight = self._bytes = 0


def halves(parts: tuple[Part, ...]) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """The same entries in two halves, each name still beside its folder."""
    flat = [(part.folder, name, False) for part in parts for name in part.files]
    flat += [(part.folder, name, True) for part in parts for name in part.links]
    # Folders without entries go with the first half, or they would be made by nobody.
    empty = tuple(part for part in parts if not part.files and not part.links)
    middle = len(flat) // 2
    return empty + _regroup(flat[:middle]), _regroup(flat[middle:])


def _regroup(flat: list[tuple[str, str, bool]]) -> tuple[Part, ...]:
    files: dict[str, list[str]] = {}
    links: dict[str, list[str]] = {}
    for folder, name, is_link in flat:
        files.setdefault(folder, [])
        links.setdefault(folder, [])
        (links if is_link else files)[folder].append(name)
    return tuple(Part(folder, tuple(files[folder]), tuple(links[folder])) for folder in files)


def join(folder: str, name: str) -> str:
    """The path of *name* in *folder*, both below the same root."""
    return f"{folder}/{name}" if folder else name
