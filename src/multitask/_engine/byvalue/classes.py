"""Classes of scripts and notebooks: taken apart here, put together again in the other process.

A class is made in two steps: a bare class with its bases (so that methods, registries and members can
refer back to it), then its attributes, set as they are. ``__init_subclass__`` of by-value parents and
``__new__``/``__init__`` of by-value metaclasses are not run again: what they did is in the attributes.
A class that is known already is left exactly as it is.
"""

from __future__ import annotations

import itertools
import os
import sys
import types
import weakref
from types import GetSetDescriptorType, MemberDescriptorType

from multitask._engine.byvalue.home import ABSENT, homes, importable
from multitask._typing import Any

_HEAP, _IMMUTABLE = 1 << 9, 1 << 8  # Py_TPFLAGS_HEAPTYPE, Py_TPFLAGS_IMMUTABLETYPE
_LEFT_OUT = frozenset({"__weakref__", "__dict__", "_abc_impl", "__annotations_cache__", "__classdictcell__"})
_ENUM_OWN = frozenset(
    {
        "_member_names_",
        "_member_map_",
        "_value2member_map_",
        "_hashable_values_",
        "_unhashable_values_",
        "_unhashable_values_map_",
        "_member_type_",
        "_value_repr_",
        "_use_args_",
        "_new_member_",
        "__new_member__",
        "_generate_next_value_",
        "__new__",
        "_singles_mask_",
        "_all_bits_",
        "_flag_mask_",
        "_inverted_",
        "_order_",
    }
)
_MEMBER_OWN = frozenset({"_name_", "_value_", "__objclass__", "_sort_order_", "_inverted_"})

Birth = tuple[int, int]  # the process whose class it was first, a number there

# Every class that was sent by value or came so, by its birth: whichever way it comes here, it is one class.
# Of functions those that were born here: each message that brings one from elsewhere makes it anew.
arrived: weakref.WeakValueDictionary[Birth, Any] = weakref.WeakValueDictionary()
_births: dict[int, tuple[weakref.ref[Any], Birth]] = {}
_process = int.from_bytes(os.urandom(7), "little")
_count = itertools.count(1)
_bare: dict[int, type] = {}  # made, not filled yet


def birth_of(thing: Any) -> Birth:
    """Where a class or function comes from; this process, if it was never asked before."""
    known = _births.get(id(thing))
    if known is not None and known[0]() is thing:
        return known[1]
    birth = (_process, next(_count))
    arrived[birth] = thing
    note_birth(thing, birth)
    return birth


def note_birth(thing: Any, birth: Birth) -> None:
    """Remember where *thing*, which was made of a message, comes from."""
    at = id(thing)
    _births[at] = (weakref.ref(thing, lambda ref: _forget_birth(at, ref)), birth)


def _forget_birth(at: int, ref: weakref.ref[Any]) -> None:
    known = _births.get(at)
    if known is not None and known[0] is ref:
        del _births[at]


def adopt_class(cls: type, birth: Birth) -> type:
    """Take *cls* for what was born as *birth*; returns the class that counts."""
    first: type = arrived.setdefault(birth, cls)
    if first is cls and id(cls) not in _births:
        note_birth(cls, birth)
    return first


def _new_process() -> None:
    global _process
    _process = int.from_bytes(os.urandom(7), "little")  # what is born from here on is not the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_process)


def is_python_class(cls: type) -> bool:
    """Whether *cls* was made by a class statement (or type()), not by an extension module."""
    return bool(cls.__flags__ & _HEAP) and not cls.__flags__ & _IMMUTABLE


def builtin_type_name(cls: type) -> str | None:
    """The name in ``types`` of an interpreter's own type that is not found under its own name, like FunctionType."""
    if cls.__module__ == "builtins" and not hasattr(sys.modules["builtins"], cls.__name__):
        for name, value in vars(types).items():
            if value is cls:
                return name
    return None


def _is_enum(cls: type) -> bool:
    enum = sys.modules.get("enum")
    return enum is not None and isinstance(cls, enum.EnumMeta)


# --- apart ----------------------------------------------------------------------------------------------------------


def reduce_class(cls: type, space: int, number: int | None, replaced: dict[str, object]) -> Any:
    """The pickle of *cls*. ``replaced``: attributes that cannot travel and what stands for them.

    Without a *number* it is one that the other side has not sent.
    """
    own = dict(cls.__dict__)
    early = ("__module__", "__qualname__", "__orig_bases__")
    basis: dict[str, Any] = {name: own.pop(name) for name in early if name in own}
    basis.setdefault("__qualname__", cls.__qualname__)
    slots = own.get("__slots__")
    if slots is not None:
        basis["__slots__"] = (slots,) if isinstance(slots, str) else tuple(slots)
    members = _members(cls) if _is_enum(cls) else None
    attributes = {}
    fields = own.get("_fields_") if "ctypes" in sys.modules else None
    structure = {field[0] for field in fields} if fields and type(cls).__module__ == "_ctypes" else ()
    for name, value in own.items():
        if name in _LEFT_OUT or name in structure or _is_slot(value, cls):
            continue
        if members is not None and (name in _ENUM_OWN or name in cls.__members__):  # type: ignore[attr-defined]
            continue
        attributes[name] = replaced.get(name, value)
    meta = type(cls) if is_python_class(type(cls)) or importable(type(cls)) else None  # ctypes hides its own
    made = (space, number, birth_of(cls), meta, cls.__name__, cls.__bases__, basis, members)
    return make_class, made, (attributes, _registered(cls)), None, None, fill_class


def _is_slot(value: object, cls: type) -> bool:
    kind = type(value)
    return (kind is MemberDescriptorType or kind is GetSetDescriptorType) and value.__objclass__ is cls  # type: ignore[attr-defined]


def _members(cls: Any) -> list[tuple[str, Any, dict[str, Any]]]:
    found = []
    for name, member in cls.__members__.items():
        extra = {key: value for key, value in member.__dict__.items() if key not in _MEMBER_OWN}
        found.append((name, member._value_, extra if member._name_ == name else {}))
    return found


def _registered(cls: type) -> tuple[type, ...]:
    """Classes that were registered with the abstract class *cls*."""
    if "_abc_impl" not in cls.__dict__:
        return ()
    import abc

    dump = getattr(abc, "_get_dump", None)
    if dump is None:
        return ()
    alive = (ref() for ref in dump(cls)[0])
    return tuple(sub for sub in alive if sub is not None)


# --- together -------------------------------------------------------------------------------------------------------


def make_class(
    space: int,
    number: int | None,
    birth: Birth,
    meta: type | None,
    name: str,
    bases: tuple[type, ...],
    basis: dict[str, Any],
    members: list[tuple[str, Any, dict[str, Any]]] | None,
) -> type:
    home = None if number is None else homes[space]
    known: Any = ABSENT if home is None or number is None else home.known(number)
    if known is ABSENT:
        known = arrived.get(birth, ABSENT)
        if known is not ABSENT and home is not None and number is not None:
            known = home.adopt(number, known)
    if known is not ABSENT:
        return known  # type: ignore[no-any-return]
    if meta is None:
        meta = next(type(base) for base in bases if type(base) is not type)
    if members is not None:
        made = _make_enum(meta, name, bases, basis, members)
    else:
        made = _make_plain(meta, name, bases, basis)
    first = adopt_class(made, birth)
    if first is made:  # else another thread was faster
        _bare[id(made)] = made
    return first if home is None or number is None else home.adopt(number, first)  # type: ignore[return-value]


def _make_plain(meta: Any, name: str, bases: tuple[type, ...], basis: dict[str, Any]) -> type:
    maker = next(kind for kind in meta.__mro__ if not is_python_class(kind) or importable(kind))
    taken = _take_out(bases, by_value_only=True)
    try:
        if maker is meta:
            made = meta(name, bases, dict(basis))
        else:
            made = maker.__new__(meta, name, bases, dict(basis))
        if isinstance(made, type):
            return made
    except Exception:  # a parent or metaclass wants keywords or attributes that come later
        pass
    finally:
        _put_back(taken)
    taken = _take_out(bases, by_value_only=False)
    try:
        bare: type = type.__new__(meta, name, bases, dict(basis))
        return bare
    finally:
        _put_back(taken)


def _take_out(bases: tuple[type, ...], *, by_value_only: bool) -> list[tuple[type, Any]]:
    """Take ``__init_subclass__`` out of the parents while a bare class is made."""
    taken = []
    for parent in {kind: None for base in bases for kind in base.__mro__}:
        own = "__init_subclass__" in parent.__dict__ and is_python_class(parent)
        if own and not (by_value_only and importable(parent)):
            taken.append((parent, parent.__dict__["__init_subclass__"]))
    for parent, _ in taken:
        type.__delattr__(parent, "__init_subclass__")
    return taken


def _put_back(taken: list[tuple[type, Any]]) -> None:
    for parent, method in taken:
        type.__setattr__(parent, "__init_subclass__", method)


def _make_enum(
    meta: Any, name: str, bases: tuple[type, ...], basis: dict[str, Any], members: list[tuple[str, Any, dict[str, Any]]]
) -> type:
    space = meta.__prepare__(name, bases)
    for key, value in basis.items():
        space[key] = value
    for key, value, _ in members:
        space[key] = value
    maker = next(kind for kind in meta.__mro__ if importable(kind))
    made: Any = maker.__new__(meta, name, bases, space)
    for key, _, extra in members:
        made.__members__[key].__dict__.update(extra)
    return made  # type: ignore[no-any-return]


def fill_class(cls: type, state: tuple[dict[str, Any], tuple[type, ...]]) -> None:
    if _bare.pop(id(cls), None) is None:
        return  # known already: not a single attribute is touched
    attributes, registered = state
    natural = type(cls).__module__ == "_ctypes"
    for name, value in attributes.items():
        if name == "__slots__":
            continue
        if natural:
            setattr(cls, name, value)
        else:
            type.__setattr__(cls, name, value)
    for sub in registered:
        cls.register(sub)  # type: ignore[attr-defined]
