"""Small shared objects on the native core: cells of arenas, each arena one file without a name.

A process hands out cells of arenas that it made itself, and is a *member* of every arena of which it uses a cell. The
protocol between members is in _native/SHARED.md; this file holds this process's arenas and has its forks counted.
Rule: the arenas that are here are looked at by any thread, each step of which the GIL makes one.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, TypeVar

from multitask import errors
from multitask._engine.memory import handles
from multitask._engine.memory.handles import Handle
from multitask._engine.memory.memory import Memory, make, new_file
from multitask._engine.workers import forking
from multitask._native import shared

CELL_BYTES_MOST = 32 * 1024  # what is larger has a file of its own
ARENA_BYTES = (64 * 1024, 512 * 1024, 4 * 1024 * 1024)  # the first, the second, all others of one cell size
CELLS_LEAST = 16

C = TypeVar("C", bound=shared.Cell)


class Arenas:
    """All arenas of this process."""

    def __init__(self) -> None:
        self.joined: weakref.WeakValueDictionary[bytes, shared.Arena] = weakref.WeakValueDictionary()
        self.made: dict[int, list[shared.Arena]] = {}  # by the size of their cells; the last one made is the last

    def take(self, kind: type[C], nbytes: int) -> C:
        """A new cell of zeros."""
        cell_bytes = max(64, 1 << max(nbytes - 1, 0).bit_length())
        made = self.made.setdefault(cell_bytes, [])
        for arena in reversed(made):
            cell = arena.take(kind, nbytes)
            if cell is not None:
                return cell
        # What others have given up is looked for only when all seems taken, and is not worth the next look unless
        # it is a good part: then a new arena comes.
        for arena in tuple(made):
            arena.sweep()
        self._give_back(made)
        if sum(arena.free for arena in made) * 4 < sum(arena.cells for arena in made) or not made:
            made.append(self._make(cell_bytes, len(made)))
        return self.take(kind, nbytes)

    def _make(self, cell_bytes: int, number: int) -> shared.Arena:
        size = ARENA_BYTES[min(number, len(ARENA_BYTES) - 1)]
        key = handles.new_key()
        cells = max(size // cell_bytes, CELLS_LEAST)
        arena = shared.Arena(new_file("multitask-arena"), key, cell_bytes, cells)
        arena.tie = handles.Tie(key)
        self.joined[key] = arena
        return arena

    def _give_back(self, made: list[shared.Arena]) -> None:
        """Let go of all arenas but one of which every cell is free."""
        empty = [arena for arena in made if arena.free == arena.cells]
        for arena in empty[: len(empty) - (len(empty) == len(made))]:
            made.remove(arena)

    def open(self, kind: type[C], handle: Handle, index: int, generation: int, nbytes: int) -> C:
        """The cell that a handle names."""
        arena = self.joined.get(handle.key)
        if arena is None:
            arena = shared.Arena(handles.borrow(handle), handle.key)
            arena.tie = handles.Tie(handle.key)
            arena = self.joined.setdefault(handle.key, arena)
        else:
            handles.arrived(handle)
        cell = arena.open(kind, index, generation, nbytes, handle.counted)
        if cell is None:
            raise errors.CannotTravel(
                "a shared object is not there any more",
                why="this handle was read before, and nobody uses the object any more",
                fix="keep the object, or send it again for each reader",
            )
        return cell

    # --- forks ------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        for arena in list(self.joined.values()):
            arena.before_fork()

    def in_parent(self) -> None:
        for arena in list(self.joined.values()):
            if arena.lend():  # what is taken from it is never free again: the next cells come from elsewhere
                for made in self.made.values():
                    made[:] = [other for other in made if other is not arena]
            arena.in_parent()

    def in_child(self) -> None:
        self.made.clear()
        for arena in list(self.joined.values()):
            arena.in_child()


arenas = Arenas()
os.register_at_fork(before=arenas.before_fork, after_in_parent=arenas.in_parent, after_in_child=arenas.in_child)
# Around all of that, so that it is done for one fork at a time: what comes before a fork is called last in, first out.
os.register_at_fork(
    before=forking.gate.acquire, after_in_parent=forking.gate.release, after_in_child=forking.gate.release
)


def reduce(cell: shared.Cell, *more: Any) -> tuple[Any, ...]:
    """How a cell is pickled: its class, and where it lies."""
    arena = cell.home
    handle = handles.write(cell, arena.fd, arena.key)
    if handle.counted:
        cell.claim()
    return arenas_open, (type(cell), tuple(handle), cell.index, cell.generation, cell.nbytes)


def arenas_open(kind: type[C], handle: tuple[Any, ...], index: int, generation: int, nbytes: int) -> C:
    """The reader's side of ``reduce``."""
    return arenas.open(kind, Handle(*handle), index, generation, nbytes)


@handles.travels
class Block(shared.Cell):
    """Bytes in an arena, as a buffer."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce(self)


@handles.travels
class RLock(shared.RobustLock):
    """A re-entrant lock for threads and processes, in shared memory.

    The same methods as ``multiprocessing.RLock``. When its holder dies, the next one gets it: what it protects is then
    as the dead left it. Travels to running workers.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce(self)

    def __repr__(self) -> str:
        return "<RLock in shared memory>"


def block(nbytes: int) -> Block | Memory:
    """That many bytes of zeros, shared, as a writable buffer."""
    if nbytes > CELL_BYTES_MOST:
        return make(nbytes)
    return arenas.take(Block, nbytes)


def lock() -> RLock:
    """A new lock."""
    return arenas.take(RLock, 64)
