"""Workers played by hand at the native core's lanes, with a codec and tasks to compare."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from multitask._engine import ledger as lg
from multitask._engine.core import CANCELLED, PENDING
from multitask._native.core import Lane, WorkerEnd


def work(number: int) -> int:
    """Never called: the workers are played."""
    return number


class Reference(NamedTuple):
    id: int = 1
    needs: tuple[Any, ...] = ()
    guards: tuple[Any, ...] = ()
    cells: tuple[Any, ...] = ()
    code: Any = None
    defaults: Any = None
    kwdefaults: Any = None


class Codec:
    """Encoder and decoder in one; only errors pass through it."""

    def function(self, fn: Any) -> Reference:
        return Reference()

    def take_dead(self) -> list[int]:
        return []

    def dump_error(self, error: BaseException) -> tuple[bytes, tuple[bytes, ...]]:
        return str(error).encode(), ()

    def load_error(self, parcel: Any) -> BaseException:
        return ValueError(bytes(parcel[0]).decode())


class Piece:
    """A task on the pure side, with the outcome it must have, beside its native task."""

    def __init__(self, number: int, key: float, tries: int, native: Any) -> None:
        self._place, self._wid, self._key, self._seq = lg.NEW, -1, key, 0
        self.number = number
        self.tries = tries
        self.native = native
        self.outcome: tuple[str, Any] | None = None

    def __repr__(self) -> str:
        return f"#{self.number}"


class Hand:
    """A worker: its lane, its end of it, and what it runs."""

    def __init__(self, core: Any) -> None:
        self.lane = Lane()
        statm = os.open("/dev/null", os.O_RDONLY)
        fds = [os.dup(fd) for fd in (*self.lane.child_fds(), *core.shared_fds())]
        self.sock, self.bell = fds[1], fds[3]
        os.close(statm)
        self.end = WorkerEnd(*fds)
        os.close(statm)  # the number it got for /proc/self/statm, which nothing here reads
        self.lane.started()
        self.said_hello = False
        self.running: Piece | None = None
        self.stopped = False  # it took a STOP, or found itself condemned
        self.answers: list[tuple[Piece, bool]] = []  # published and not collected

    def close(self) -> None:
        os.close(self.sock)
        os.close(self.bell)


def outcome(native: Any) -> tuple[str, Any] | None:
    if native._status == PENDING:
        return None
    if native._status == CANCELLED:
        return ("cancelled", None)
    ok, value = native._outcome()
    return ("ok", value) if ok else ("error", str(value))
