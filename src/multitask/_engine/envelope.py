"""Objects for a reader whom the writer does not know: items of queues, what is shared, what a manager is sent.

    data, buffers = seal(obj)            any process, any thread
    obj = open_sealed(data, buffers)     any other process of the family

Plain data is one pickle. Functions and classes that the reader may not be able to import travel by value as in wire.py,
but each message brings along all that it needs:

    ┌──────┬─────────────────────────────────────────────────────────────┬────────┐
    │ MARK │ space, entries: (number, name, pickle, buffers, mark) …     │ pickle │
    └──────┴─────────────────────────────────────────────────────────────┴────────┘

The reader that *is* the origin of a class or function gets that very object back. A class is one class in each
process, however it comes there (its *birth*, classes.py). Processes that run the same script find functions and classes
of ``__main__`` by name, if they are the same code. A function has a namespace of its own with the globals it reads, as
they were when it was sealed.
"""

from __future__ import annotations

import marshal
import os
import pickle
from collections.abc import Callable, Sequence
from pickle import dumps
from typing import Any

from multitask._engine import family
from multitask._engine.byvalue.define import Definitions
from multitask._engine.byvalue.graph import Definition, Need
from multitask._engine.byvalue.home import PROTOCOL
from multitask._engine.byvalue.paths import explanation, roots
from multitask._engine.byvalue.pickling import IN_BAND_BYTES, MAIN_IN_PICKLE, ValuePickler
from multitask._engine.opening import MARK, SPACES_KEPT, Mark, Openings, keep, mark_of, open_sealed, this_script

__all__ = ["open_sealed", "seal", "seal_whole"]

_DESK_BYTES = 256 * 1024  # after a larger item the desk is not kept
_NONE: tuple[memoryview, ...] = ()
_SCALARS = frozenset({int, float, bool, type(None), str, bytes, complex})


# --- sealing --------------------------------------------------------------------------------------------------------


class _Pickler(ValuePickler):
    """Used again and again, taken by one thread at a time: making a new one costs 1 µs."""

    def __init__(self, sealer: _Sealer, in_band: bool = False) -> None:
        self.sealer = sealer
        self.in_band = in_band
        self.traveller = sealer.definitions
        self.chunks: list[bytes] = []  # what it has written
        self.found: list[Definition] = []
        self.buffers: list[memoryview] = []
        super().__init__(_Sink(self.chunks), PROTOCOL, buffer_callback=self._out_of_band)

    def put_away(self) -> None:
        """Let go of all that it has seen: it is part of a cycle, which may last."""
        self.clear_memo()
        self.chunks.clear()
        self.found.clear()
        self.buffers.clear()
        self.asked = False

    def _out_of_band(self, buffer: pickle.PickleBuffer) -> bool:
        self.asked = True
        raw = buffer.raw()
        if self.in_band or raw.nbytes < IN_BAND_BYTES:
            return True
        self.buffers.append(raw)
        return False


_Desk = tuple[Callable[[object], None], Callable[[], None], list[bytes], _Pickler]


def _new_desk(in_band: bool = False) -> _Desk:
    pickler = _Pickler(_current_sealer(), in_band)
    return pickler.dump, pickler.clear_memo, pickler.chunks, pickler


class _Sink:
    """What a pickler takes for a file."""

    __slots__ = ("write",)

    def __init__(self, chunks: list[bytes]) -> None:
        self.write = chunks.append


class _Definitions(Definitions):
    keeps = False

    def lend(self, pickler: ValuePickler, fd: int) -> family.Ticket:
        return family.lend(fd)


class _Sealer:
    """What this process has sealed by value: numbers in a space of its own. Also the home of what comes back."""

    def __init__(self) -> None:
        self.space = int.from_bytes(os.urandom(7), "little")
        self.definitions = _Definitions(self.space, None)
        self.openings = Openings(self.space, self.definitions)

    def worn(self) -> bool:
        """Whether it holds so much of what was only passed on that a new one is due."""
        return self.definitions.namespaces.count() > SPACES_KEPT


_sealer: _Sealer | None = None
_desks: list[_Desk] = []
_take, _give_back = _desks.pop, _desks.append


def seal(obj: object, where: str = "item") -> tuple[bytes, Sequence[memoryview]]:
    """*obj* for any reader of the family, and the buffers that travel beside it (they alias the live objects).

    Raises CannotTravel at once, with the path to what cannot travel; *where* is how that path begins. Runs user code.
    """
    if type(obj) in _SCALARS:
        return dumps(obj, PROTOCOL), _NONE
    try:
        desk = _take()
    except IndexError:
        desk = _new_desk()
    dump, clear_memo, chunks, pickler = desk
    try:
        dump(obj)
    except BaseException as error:
        pickler.put_away()
        if not isinstance(error, Exception):
            raise
        return _seal_again(pickler.sealer, obj, where)
    if pickler.asked or len(chunks) > 1:
        return _seal_more(desk, obj, where)
    data = chunks.pop()
    clear_memo()
    _give_back(desk)
    return data, _NONE


def seal_whole(obj: object, where: str = "object") -> bytes:
    """Like ``seal``, with all buffers inside: for streams. What is importable is a pickle that anybody can read."""
    desk = _new_desk(in_band=True)
    pickler = desk[3]
    try:
        pickler.dump(obj)
    except Exception:
        return _seal_again(pickler.sealer, obj, where, in_band=True)[0]
    return _seal_more(desk, obj, where)[0]


def _seal_more(desk: _Desk, obj: object, where: str) -> tuple[bytes, Sequence[memoryview]]:
    """What is large, has objects or buffers in it or travels by value."""
    pickler = desk[3]
    data = b"".join(pickler.chunks)
    buffers = tuple(pickler.buffers)
    try:
        if data.find(MAIN_IN_PICKLE) >= 0:
            return _seal_again(pickler.sealer, obj, where, pickler.in_band)
        if pickler.found:
            # Until here the pickler keeps alive what only __reduce__ methods have made.
            data = _enclose(pickler.sealer, data, pickler.found, obj, where)
    finally:
        pickler.put_away()
    if len(data) < _DESK_BYTES and not pickler.in_band:
        _give_back(desk)
    return data, buffers


def _seal_again(sealer: _Sealer, obj: object, where: str, in_band: bool = False) -> tuple[bytes, Sequence[memoryview]]:
    """After a failure: with the reducers for exotic types, and with witnesses to what fails."""
    data, buffers, found, _pickler = sealer.definitions.pickled(obj, where, in_band=in_band)
    if found:
        data = _enclose(sealer, data, found, obj, where)
    return data, buffers


def _current_sealer() -> _Sealer:
    global _sealer
    if _sealer is None:
        _sealer = _Sealer()
    return _sealer


def _enclose(sealer: _Sealer, data: bytes, found: list[Definition], obj: object, where: str) -> bytes:
    """The message: *data* and all that the definitions in *found* need."""
    global _sealer
    definitions = sealer.definitions
    definitions.dead.clear()  # no reader waits to be told
    definitions.sweep()
    try:
        needs = definitions.needs(found)
    except Exception as error:
        raise explanation(roots(obj, where), [one.subject() for one in found], error) from error
    found.clear()
    script = this_script()
    entries = [_entry(definitions, need, script) for need in needs]
    if sealer.worn() and _sealer is sealer:
        _sealer = None
        _desks.clear()
    return bytes([MARK]) + marshal.dumps((sealer.space, entries, data))


def _entry(definitions: Definitions, need: Need, script: Mark | None) -> tuple[Any, ...]:
    number, name, (data, buffers) = need
    mark = None if name is not None else mark_of(definitions.subject(number), script)
    return number, name, data, [bytes(buffer) for buffer in buffers], mark


# --- forked children ------------------------------------------------------------------------------------------------


def _in_forked_child() -> None:
    """What the parent has sealed keeps its numbers; what this process seals gets a space of its own."""
    global _sealer
    if _sealer is not None:
        keep(_sealer.space, _sealer.openings)
        _sealer = None
    _desks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
