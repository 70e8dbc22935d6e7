"""The pickler of both directions: functions and classes as the Traveller decides, descriptors and the like here.

Everything it writes is read by plain ``pickle.loads``. What the standard pickler refuses and a script's
class may well hold (property, lru_cache, TypeVar, singledispatch …) has a reducer here; for the rest
cloudpickle's reducers are tried, but only after a first failure, since importing it takes 32 ms.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import sys
import weakref
from collections.abc import Callable
from importlib import import_module
from types import (
    CellType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, Protocol

from multitask._engine import byvalue
from multitask._engine.byvalue import PROTOCOL, importable, importable_module
from multitask._engine.byvalue_classes import builtin_type_name, fill_class, is_python_class, make_class

IN_BAND_BYTES = 16 * 1024  # smaller buffers are cheaper inside the pickle than beside it


class Traveller(Protocol):
    """Who decides how what travels by value is written: the Encoder or the Decoder."""

    def write_function(self, pickler: ValuePickler, fn: Any) -> Any: ...
    def write_class(self, pickler: ValuePickler, cls: type) -> Any: ...
    def write_object(self, pickler: ValuePickler, thing: Any, reduced: Any) -> Any: ...
    def write_cell(self, pickler: ValuePickler, cell: CellType) -> Any: ...


class ValuePickler(pickle.Pickler):
    """A C pickler that asks its traveller about functions and classes.

    ``root``: (object that is written out, not referred to; its definition).
    """

    traveller: Traveller
    root: tuple[Any, Any] | None = None
    replaced: dict[str, object] = {}
    found: list[Any]  # definitions that the pickle refers to

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        reducer = reducers.get(kind)
        if reducer is not None:
            return reducer(self, obj)
        if issubclass(kind, type):
            return _class(self, obj)
        if issubclass(kind, BaseException):
            return _error(self, obj)
        return NotImplemented


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


_MAIN_IN_PICKLE = b"\x8c\x08__main__"


def names_main(data: bytes) -> bool:
    """Whether a pickle may refer to ``__main__`` by name, where nothing of that name need be in a worker."""
    return _MAIN_IN_PICKLE in data


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
    if table is not None:
        pickler.dispatch_table = table
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
    except Exception:
        if seen is not None:
            seen += witness
        raise first from None


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


# --- reducers by exact type -----------------------------------------------------------------------------------------


def _function(pickler: ValuePickler, fn: Any) -> Any:
    if fn in _OWN or importable(fn):
        return NotImplemented
    if fn.__code__ is _GENERIC_CODE:
        return pickler.traveller.write_object(pickler, fn, _reduce_generic)
    return pickler.traveller.write_function(pickler, fn)


_OWN = frozenset(
    {
        byvalue.make_function,
        byvalue.fill_function,
        byvalue.make_cell,
        byvalue.resolve,
        byvalue.inherited,
        make_class,
        fill_class,
    }
)


def _class(pickler: ValuePickler, cls: type) -> Any:
    if importable(cls):
        return NotImplemented
    if is_python_class(cls):
        return pickler.traveller.write_class(pickler, cls)
    name = builtin_type_name(cls)
    if name is not None and name not in ("NoneType", "EllipsisType", "NotImplementedType"):
        return getattr, (sys.modules["types"], name)
    return NotImplemented


def _module(pickler: ValuePickler, module: ModuleType) -> Any:
    if module is sys.modules["__main__"]:
        return byvalue.main_module, ()
    name = module.__name__
    if sys.modules.get(name) is module and importable_module(name, module):
        return import_module, (name,)
    return pickler.traveller.write_object(pickler, module, _reduce_module)


def _reduce_module(module: ModuleType) -> Any:
    skipped = ("__builtins__", "__loader__", "__spec__")
    state = {name: value for name, value in vars(module).items() if name not in skipped}
    return ModuleType, (module.__name__,), state


def _cell(pickler: ValuePickler, cell: CellType) -> Any:
    return pickler.traveller.write_cell(pickler, cell)


def _method(pickler: ValuePickler, method: MethodType) -> Any:
    fn = method.__func__
    if type(fn) is FunctionType and not importable(fn):
        return MethodType, (fn, method.__self__)
    return NotImplemented


def _property(pickler: ValuePickler, thing: property) -> Any:
    return property, (thing.fget, thing.fset, thing.fdel, thing.__doc__)


def _wrapping(pickler: ValuePickler, thing: Any) -> Any:
    return type(thing), (thing.__func__,)


def _proxy(pickler: ValuePickler, thing: MappingProxyType[Any, Any]) -> Any:
    return MappingProxyType, (dict(thing),)


def _descriptor(pickler: ValuePickler, thing: Any) -> Any:
    return getattr, (thing.__objclass__, thing.__name__)


def _cached(pickler: ValuePickler, thing: Any) -> Any:
    if importable(thing):
        return NotImplemented
    return pickler.traveller.write_object(pickler, thing, _reduce_cached)


def _reduce_cached(thing: Any) -> Any:
    made = _make_cached, (thing.__wrapped__, thing.cache_parameters())
    state = {name: value for name, value in vars(thing).items() if name != "__wrapped__"}
    return (*made, state)


def _make_cached(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(fn)


def _generic_method(pickler: ValuePickler, thing: Any) -> Any:
    return functools.singledispatchmethod, (thing.func,), {"func": thing.func, "dispatcher": thing.dispatcher}


def _weak(pickler: ValuePickler, thing: Any) -> Any:
    return type(thing), (list(thing) if isinstance(thing, weakref.WeakSet) else dict(thing),)


def _cached_property(pickler: ValuePickler, thing: Any) -> Any:
    state = {name: value for name, value in vars(thing).items() if name not in ("lock", "func")}
    return functools.cached_property, (thing.func,), state


_GENERIC_CODE = functools.singledispatch(lambda _: None).__code__  # type: ignore[attr-defined]


def _reduce_generic(fn: Any) -> Any:
    return _make_generic, (fn.registry[object],), dict(fn.registry), None, None, _fill_generic


def _make_generic(default: Callable[..., Any]) -> Any:
    return functools.singledispatch(default)


def _fill_generic(fn: Any, registry: dict[type, Callable[..., Any]]) -> None:
    for kind, method in registry.items():
        if kind is not object:
            fn.register(kind, method)


def _named(pickler: ValuePickler, thing: Any) -> Any:
    """TypeVar and its kin, NewType: pickled by name, or made anew where the name cannot be imported."""
    if importable(thing):
        return NotImplemented
    return pickler.traveller.write_object(pickler, thing, _reduce_named)


def _reduce_named(thing: Any) -> Any:
    kind = type(thing)
    if kind.__name__ == "TypeVar":
        options = {"covariant": thing.__covariant__, "contravariant": thing.__contravariant__}
        return _make_typevar, (kind, thing.__module__, thing.__name__, thing.__constraints__, thing.__bound__, options)
    if kind.__name__ == "NewType":
        return _make_named, (kind, thing.__module__, thing.__name__, thing.__supertype__)
    return _make_named, (kind, thing.__module__, thing.__name__)


def _make_typevar(
    kind: Any, module: str, name: str, constraints: tuple[Any, ...], bound: Any, options: dict[str, bool]
) -> Any:
    made = (
        kind(name, *constraints, bound=bound, **options) if bound is not None else kind(name, *constraints, **options)
    )
    made.__module__ = module
    return made


def _make_named(kind: Any, module: str, name: str, *more: Any) -> Any:
    made = kind(name, *more)
    made.__module__ = module
    return made


def _error(pickler: ValuePickler, error: BaseException) -> Any:
    from multitask._engine.byvalue_errors import reduce_error

    return reduce_error(error)


Reducer = Callable[[Any, Any], Any]
reducers: dict[type, Reducer] = {
    type: _class,
    FunctionType: _function,
    ModuleType: _module,
    CellType: _cell,
    MethodType: _method,
    property: _property,
    classmethod: _wrapping,
    staticmethod: _wrapping,
    MappingProxyType: _proxy,
    GetSetDescriptorType: _descriptor,
    MemberDescriptorType: _descriptor,
    type(functools.lru_cache(lambda: None)): _cached,
    functools.cached_property: _cached_property,
    functools.singledispatchmethod: _generic_method,
    weakref.WeakSet: _weak,
    weakref.WeakKeyDictionary: _weak,
    weakref.WeakValueDictionary: _weak,
}
CACHED_TYPE = type(functools.lru_cache(lambda: None))
DEFINED_TYPES: set[type] = {CACHED_TYPE}  # besides functions and classes: what is sent once, under a number


_learnt: set[str] = set()


def learn_lazily_imported() -> None:
    """Add reducers for types of modules that we do not import ourselves."""
    for name in ("typing", "dataclasses"):
        if name in sys.modules and name not in _learnt:
            _learn()
            _learnt.add(name)


def _learn() -> None:
    typing = sys.modules.get("typing")
    if typing is not None:
        for name in ("TypeVar", "ParamSpec", "TypeVarTuple", "NewType"):
            if hasattr(typing, name):
                reducers.setdefault(getattr(typing, name), _named)
                DEFINED_TYPES.add(getattr(typing, name))
    dataclasses = sys.modules.get("dataclasses")
    if dataclasses is not None:
        for name in ("_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR", "MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY"):
            thing = getattr(dataclasses, name, None)
            if thing is not None and not isinstance(thing, type):
                reducers.setdefault(type(thing), _dataclass_constant)


def _dataclass_constant(pickler: ValuePickler, thing: object) -> Any:
    dataclasses = sys.modules["dataclasses"]
    for name, value in vars(dataclasses).items():
        if value is thing:
            return getattr, (dataclasses, name)
    return NotImplemented
