"""How things that scripts hold and the standard pickler refuses are written: a reducer for each exact type.

Functions, classes and what may be sent once under a number go to the pickler's traveller, who decides.
"""

from __future__ import annotations

import functools
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

from multitask._engine.byvalue import home
from multitask._engine.byvalue.classes import builtin_type_name, fill_class, is_python_class, make_class
from multitask._engine.byvalue.home import importable, importable_module
from multitask._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multitask._engine.byvalue.pickling import ValuePickler


def _function(pickler: ValuePickler, fn: Any) -> Any:
    if fn in _OWN or importable(fn):
        return NotImplemented
    if fn.__code__ is _GENERIC_CODE:
        return pickler.traveller.write_object(pickler, fn, _reduce_generic)
    return pickler.traveller.write_function(pickler, fn)


_OWN = frozenset(
    {
        home.make_function,
        home.fill_function,
        home.make_cell,
        home.resolve,
        home.inherited,
        make_class,
        fill_class,
    }
)


def reduce_any_class(pickler: ValuePickler, cls: type) -> Any:
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
        return home.main_module, ()
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


def reduce_any_error(pickler: ValuePickler, error: BaseException) -> Any:
    from multitask._engine.byvalue.errors import reduce_error

    return reduce_error(error)


Reducer = Callable[[Any, Any], Any]
reducers: dict[type, Reducer] = {
    type: reduce_any_class,
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
