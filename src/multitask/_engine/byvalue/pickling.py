"""The pickler of both directions: functions and classes are written as its traveller decides.

Everything it writes is read by plain ``pickle.loads``. What neither the standard pickler nor our reducers
can write is tried with cloudpickle's, but only after a first failure, since importing it takes 32 ms.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from types import CellType, ModuleType

from multitask._engine.byvalue.handles import lending, reducer_for
from multitask._engine.byvalue.home import PROTOCOL
from multitask._engine.byvalue.reducers import reduce_any_class, reduce_any_error, reducers
from multitask._typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from multitask._engine.family import Ticket

IN_BAND_BYTES = 16 * 1024  # smaller buffers are cheaper inside the pickle than beside it


class Traveller(Protocol):
    """Who decides how what travels by value is written: the Encoder or the Decoder."""

    def write_function(self, pickler: ValuePickler, fn: Any) -> Any: ...
    def write_class(self, pickler: ValuePickler, cls: type) -> Any: ...
    def write_object(self, pickler: ValuePickler, thing: Any, reduced: Any) -> Any: ...
    def write_cell(self, pickler: ValuePickler, cell: CellType) -> Any: ...
    def lend(self, pickler: ValuePickler, fd: int) -> Ticket: ...


class ValuePickler(pickle.Pickler):
    """A C pickler that asks its traveller about functions and classes.

    ``root``: (object that is written out, not referred to; its definition).
    """

    traveller: Traveller
    root: tuple[Any, Any] | None = None
    replaced: dict[str, object] = {}
    found: list[Any]  # definitions that the pickle refers to
    asked: bool = False  # about anything: else it was all plain data

    def reducer_override(self, obj: Any) -> Any:
        self.asked = True
        kind = type(obj)
        reducer = reducers.get(kind)
        if reducer is not None:
            return reducer(self, obj)
        if issubclass(kind, type):
            return reduce_any_class(self, obj)
        if issubclass(kind, BaseException):
            return reduce_any_error(self, obj)
        reducer = reducer_for(kind)
        return NotImplemented if reducer is None else reducer(self, obj)


class WitnessPickler(ValuePickler):
    """Notes every object it was asked about: the last one is what failed."""

    seen: list[object]

    def reducer_override(self, obj: Any) -> Any:
        self.seen.append(obj)
        return super().reducer_override(obj)


class ConstantPickler(ValuePickler):
    """For constants of ``__main__`` whose ``__reduce__`` gives a name (``MISSING``): sent once, under a number."""

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if reduced is not NotImplemented or not _by_name(obj):
            return reduced
        return self.traveller.write_object(self, obj, _reduce_constant)


def _by_name(obj: Any) -> bool:
    kind: Any = type(obj)
    if kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__:
        return False
    name = obj.__reduce_ex__(PROTOCOL)
    return isinstance(name, str) and vars(sys.modules["__main__"]).get(name) is obj


def _reduce_constant(obj: Any) -> Any:
    return _bare_object, (type(obj),), getattr(obj, "__dict__", None) or None


def _bare_object(kind: Any) -> Any:
    return kind.__new__(kind)


MAIN_IN_PICKLE = b"\x8c\x08__main__"


def names_main(data: bytes) -> bool:
    """Whether a pickle may refer to ``__main__`` by name, where nothing of that name need be in a worker."""
    return MAIN_IN_PICKLE in data


def pickled(
    traveller: Traveller,
    obj: object,
    *,
    root: tuple[Any, Any] | None = None,
    replaced: dict[str, object] | None = None,
    in_band: bool = False,
    kind: type[ValuePickler] = ValuePickler,
    seen: list[object] | None = None,
    table: Any = None,
) -> tuple[bytes, tuple[Any, ...], list[Any], ValuePickler]:
    """(stream, buffers, definitions referred to, the pickler: while it lives, so does all it has seen)."""
    file = io.BytesIO()
    buffers: list[Any] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < IN_BAND_BYTES:
            return True
        buffers.append(raw)
        return False

    pickler = kind(file, PROTOCOL, buffer_callback=None if in_band else out_of_band)
    pickler.traveller = traveller
    found: list[Any] = []
    pickler.found = found
    if root is not None:
        pickler.root = root
    if replaced:
        pickler.replaced = replaced
    if seen is not None:
        pickler.seen = seen  # type: ignore[attr-defined]
    if table is None:
        pickler.dump(obj)
    else:
        pickler.dispatch_table = table
        with lending(pickler):  # for what multiprocessing pickles only while it starts a process
            pickler.dump(obj)
    return file.getvalue(), tuple(buffers), found, pickler


class Desk:
    """A pickler that one thread uses again and again for small payloads: making a new one costs 1 µs."""

    __slots__ = ("buffers", "file", "found", "pickler")

    def __init__(self, traveller: Traveller) -> None:
        self.file = file = io.BytesIO()
        self.buffers: list[memoryview] = []
        self.found: list[Any] = []
        self.pickler = ValuePickler(file, PROTOCOL, buffer_callback=self._out_of_band)
        self.pickler.traveller = traveller
        self.pickler.found = self.found

    def _out_of_band(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < IN_BAND_BYTES:
            return True
        self.buffers.append(raw)
        return False

    def clear(self) -> None:
        self.pickler.clear_memo()
        self.file.seek(0)
        self.file.truncate()
        self.found.clear()
        self.buffers.clear()


DESK_BYTES = 256 * 1024  # after a larger payload the desk is not kept


def pickled_somehow(
    traveller: Traveller, obj: object, *, seen: list[object] | None = None, **options: Any
) -> tuple[bytes, tuple[Any, ...], list[Any], ValuePickler]:
    """Like pickled(); what fails is tried with cloudpickle's reducers. ``seen`` is filled when that fails too."""
    try:
        return pickled(traveller, obj, **options)
    except (RecursionError, MemoryError):
        raise
    except Exception as error:
        first = error
    witness: list[object] = []
    try:
        options["kind"] = WitnessPickler
        return pickled(traveller, obj, seen=witness, table=exotic_table(), **options)
    except Exception as second:
        if seen is not None:
            seen += witness
        # "… through inheritance" of multiprocessing: the second try says what of it could not be handed on.
        raise second if type(first) is RuntimeError and "inheritance" in str(first) else first from None


_SCALARS = frozenset({int, float, bool, type(None), str, bytes, complex})
_only_scalars = _SCALARS.issuperset
_FEW = 64


def is_plain(obj: Any) -> bool:
    """Whether *obj* holds nothing but a few exact scalars, so that the standard pickler does all there is to do."""
    kind = type(obj)
    if kind is tuple:
        if len(obj) == 2 and type(obj[1]) is dict:  # (args, kwargs)
            args, kwargs = obj
            if kwargs and not (len(kwargs) < _FEW and _only_scalars(map(type, kwargs.values()))):
                return False
            return type(args) is tuple and len(args) < _FEW and _only_scalars(map(type, args))
        return len(obj) < _FEW and _only_scalars(map(type, obj))
    return kind in _SCALARS or (kind is list and len(obj) < _FEW and _only_scalars(map(type, obj)))


def exotic_table() -> Any:
    """cloudpickle's reducers for what the standard pickler refuses, without those that would pretend."""
    import cloudpickle

    table = dict(copyreg.dispatch_table)
    pretend = (io.TextIOWrapper, memoryview, ModuleType, CellType)
    for kind, reducer in cloudpickle.CloudPickler.dispatch_table.items():
        if kind not in pretend and kind not in reducers:
            table[kind] = reducer
    return table
