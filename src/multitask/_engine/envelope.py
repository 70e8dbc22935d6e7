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
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib import import_module
from pickle import dumps, loads
from types import CellType, FunctionType
from typing import Any
from zlib import crc32

from multitask._engine import family
from multitask._engine.byvalue import home
from multitask._engine.byvalue.child import cannot_rebuild
from multitask._engine.byvalue.classes import adopt_class, arrived, birth_of, is_python_class
from multitask._engine.byvalue.define import Definitions
from multitask._engine.byvalue.graph import Definition, Need
from multitask._engine.byvalue.home import ABSENT, PROTOCOL, homes
from multitask._engine.byvalue.missing import make_missing
from multitask._engine.byvalue.paths import explanation, roots
from multitask._engine.byvalue.pickling import IN_BAND_BYTES, MAIN_IN_PICKLE, ValuePickler

__all__ = ["open_sealed", "seal", "seal_whole"]

_MARK = 0x01  # a pickle starts with 0x80
_SPACES_KEPT = 1000  # foreign namespaces in one sealer, origins in one reader

_DESK_BYTES = 256 * 1024  # after a larger item the desk is not kept
_NONE: tuple[memoryview, ...] = ()
_SCALARS = frozenset({int, float, bool, type(None), str, bytes, complex})
Mark = tuple[Any, ...]  # how else an entry may be found: its birth, the script it is from, its name there, its code


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
        self.openings = _Openings(self.space, self.definitions)

    def worn(self) -> bool:
        """Whether it holds so much of what was only passed on that a new one is due."""
        return self.definitions.namespaces.count() > _SPACES_KEPT


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
    script = _script()
    entries = [_entry(definitions, need, script) for need in needs]
    if sealer.worn() and _sealer is sealer:
        _sealer = None
        _desks.clear()
    return b"\x01" + marshal.dumps((sealer.space, entries, data))


def _entry(definitions: Definitions, need: Need, script: Mark | None) -> tuple[Any, ...]:
    number, name, (data, buffers) = need
    mark = None if name is not None else _mark(definitions.subject(number), script)
    return number, name, data, [bytes(buffer) for buffer in buffers], mark


def _mark(subject: Any, script: Mark | None) -> Mark | None:
    if type(subject) is FunctionType:
        return (None, script, subject.__qualname__, crc32(subject.__code__.co_code)) if script else None
    if isinstance(subject, type) and is_python_class(subject):
        return birth_of(subject), script, subject.__qualname__, 0
    return None


# --- processes that run the same script -----------------------------------------------------------------------------

_lineage = os.urandom(8)  # the same in forked children


def _script() -> Mark | None:
    """What this process's ``__main__`` is; None in a worker, where nothing was run as such."""
    main = sys.modules.get("__main__")
    if main is None or main is home.made_main:
        return None
    file = getattr(main, "__file__", None)
    return _lineage, os.path.abspath(file) if file else None


def _counterpart(mark: Mark) -> Any:
    """The object of our own ``__main__`` that *mark* describes, or ABSENT."""
    _, theirs, name, code = mark
    ours = _script() if theirs else None
    if ours is None or not (theirs[0] == ours[0] or (theirs[1] and theirs[1] == ours[1])):
        return ABSENT
    found: Any = sys.modules["__main__"]
    for part in name.split("."):
        found = getattr(found, part, ABSENT)
    if getattr(found, "__qualname__", None) != name or getattr(found, "__module__", None) not in home.MAINS:
        return ABSENT
    if code:
        return found if type(found) is FunctionType and crc32(found.__code__.co_code) == code else ABSENT
    return found if isinstance(found, type) else ABSENT


# --- opening --------------------------------------------------------------------------------------------------------


def open_sealed(data: Any, buffers: Any = ()) -> object:
    """What was sealed. Runs user code. Raises CannotTravel when it cannot be rebuilt here.

    *data* is bytes-like, *buffers* come in their order: writable ones are used as they are, bytes are copied.
    """
    try:
        if data[0] != _MARK:
            return loads(data) if not buffers else loads(data, buffers=_writable(buffers))
        space, entries, content = marshal.loads(memoryview(data)[1:])
        openings: Any = homes.get(space)
        if openings is None:
            openings = _openings_for(space)
        opening = _Opening(space, entries)
        openings.stack().append(opening)
        try:
            return loads(content, buffers=_writable(buffers))
        finally:
            openings.stack().pop()
    except Exception as error:
        raise cannot_rebuild("an item", error) from error


def _writable(buffers: Any) -> list[Any]:
    return [bytearray(buffer) if type(buffer) is bytes else buffer for buffer in buffers]


class _Opening:
    """One message on its way out of its envelope: what it brought, what was built of it."""

    def __init__(self, space: int, entries: list[tuple[Any, ...]]) -> None:
        self.space = space
        self._definitions = {entry[0]: entry for entry in entries if entry[1] is None}
        self._bindings = [entry for entry in entries if entry[1] is not None]
        self._objects: dict[int, Any] = {}
        self._cells: dict[int, CellType] = {}
        self._spaces: dict[str, dict[str, Any]] = {}

    def resolve(self, number: int) -> object:
        found = self._objects.get(number, ABSENT)
        if found is not ABSENT:
            return found
        entry = self._definitions.get(number)
        if entry is None:
            raise LookupError(f"definition {number} is not in the message")
        _, _, data, buffers, mark = entry
        if mark is not None:
            found = self._present(mark)
            if found is not ABSENT:
                return self.adopt(number, found)
        return self.adopt(number, loads(data, buffers=_writable(buffers)))

    def _present(self, mark: Mark) -> Any:
        birth = mark[0]
        if birth is None:
            return _counterpart(mark)
        found: Any = arrived.get(birth, ABSENT)
        if found is ABSENT:
            found = _counterpart(mark)
            if found is not ABSENT:
                found = adopt_class(found, birth)
        return found

    def known(self, number: int) -> object:
        return self._objects.get(number, ABSENT)

    def adopt(self, number: int, made: object) -> object:
        return self._objects.setdefault(number, made)

    def cell(self, number: int) -> CellType:
        return self._cells.setdefault(number, CellType())

    def namespace(self, key: str) -> dict[str, Any]:
        if key.startswith("@"):
            return import_module(key[1:]).__dict__
        space = self._spaces.get(key)
        if space is None:
            space = self._spaces[key] = {"__name__": "__main__", "__builtins__": sys.modules["builtins"]}
            self._bind(key, space)
        return space

    def _bind(self, key: str, space: dict[str, Any]) -> None:
        for _, wire_name, data, buffers, _ in self._bindings:
            own, _, name = wire_name.rpartition(".") if wire_name.startswith("#") else ("", "", wire_name)
            if own != key:
                continue
            try:
                space[name] = loads(data, buffers=_writable(buffers))
            except Exception as error:
                space[name] = make_missing(f"global {name!r}", f"{type(error).__name__}: {error}")

    def inherited(self, name: str) -> object:
        raise LookupError(name)


class _Openings:
    """The home of one space: what its pickles name is in the message that this thread is opening.

    Where the space is this process's own, its live objects come first.
    """

    def __init__(self, space: int, origin: Definitions | None = None) -> None:
        self._local = threading.local()
        self._origin = origin
        homes[space] = self

    def stack(self) -> list[_Opening]:
        try:
            return self._local.stack  # type: ignore[no-any-return]
        except AttributeError:
            stack: list[_Opening] = []
            self._local.stack = stack
            return stack

    def _top(self) -> _Opening:
        stack = self.stack()
        if not stack:
            raise LookupError("it was taken out of its message")
        return stack[-1]

    def resolve(self, number: int) -> object:
        if self._origin is not None:
            subject = self._origin.subject(number)
            if subject is not None:
                return subject
        return self._top().resolve(number)

    def known(self, number: int) -> object:
        return self._top().known(number)

    def adopt(self, number: int, made: object) -> object:
        return self._top().adopt(number, made)

    def cell(self, number: int) -> CellType:
        return self._top().cell(number)

    def namespace(self, key: str) -> dict[str, Any]:
        return self._top().namespace(key)

    def inherited(self, name: str) -> object:
        return self._top().inherited(name)


_origins: OrderedDict[int, _Openings] = OrderedDict()
_origins_lock = threading.Lock()


def _openings_for(space: int) -> _Openings:
    with _origins_lock:
        openings = _origins.get(space)
        if openings is None:
            openings = _origins[space] = _Openings(space)
            if len(_origins) > _SPACES_KEPT:
                _origins.popitem(last=False)
    return openings


# --- forked children ------------------------------------------------------------------------------------------------


def _in_forked_child() -> None:
    """What the parent has sealed keeps its numbers; what this process seals gets a space of its own."""
    global _sealer, _origins_lock
    _origins_lock = threading.Lock()
    if _sealer is not None:
        _origins[_sealer.space] = _sealer.openings
        _sealer = None
    _desks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
