"""Value and Array: the standard library's ctypes objects and wrappers, in our memory and with our lock.

``multiprocessing.sharedctypes`` decides what they are and do; here stands where they lie and how they travel. A ctypes
object is pickled by its exact type, as there: a reducer is put down for each type that is used, and what is not in
shared memory goes the usual way.
"""

from __future__ import annotations

import copyreg
import ctypes
from multiprocessing import sharedctypes
from typing import Any

from multitask._engine.memory import store

_typecodes: dict[Any, Any] = sharedctypes.typecode_to_type  # type: ignore[attr-defined]
_Ctype = Any


def raw_value(typecode_or_type: Any, *args: Any) -> _Ctype:
    kind = _typecodes.get(typecode_or_type, typecode_or_type)
    made = _new(kind)
    made.__init__(*args)
    return made


def raw_array(typecode_or_type: Any, size_or_initializer: Any) -> _Ctype:
    kind = _typecodes.get(typecode_or_type, typecode_or_type)
    if isinstance(size_or_initializer, int):
        return _new(kind * size_or_initializer)
    made = _new(kind * len(size_or_initializer))
    made.__init__(*size_or_initializer)
    return made


def value(typecode_or_type: Any, args: tuple[Any, ...], lock: Any) -> Any:
    made = raw_value(typecode_or_type, *args)
    return made if lock is False else synchronized(made, _lock(lock))


def array(typecode_or_type: Any, size_or_initializer: Any, lock: Any) -> Any:
    made = raw_array(typecode_or_type, size_or_initializer)
    return made if lock is False else synchronized(made, _lock(lock))


def _lock(lock: Any) -> Any:
    if lock is True or lock is None:
        return store().lock()
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return lock


def copy(obj: _Ctype) -> _Ctype:
    """A copy of a ctypes object in shared memory."""
    made = _new(type(obj))
    ctypes.pointer(made)[0] = obj
    return made


# --- ctypes objects -------------------------------------------------------------------------------------------------


def _new(kind: Any) -> _Ctype:
    return _at(kind, Wrapper(store().block(ctypes.sizeof(kind))))


class Wrapper:
    """The memory of one ctypes object. The standard library's reducers ask for ``create_memoryview``."""

    def __init__(self, block: Any) -> None:
        self._block = block

    def create_memoryview(self) -> memoryview:
        return memoryview(self._block)

    def __reduce__(self) -> tuple[Any, ...]:
        return Wrapper, (self._block,)


def _at(kind: Any, wrapper: Wrapper) -> _Ctype:
    copyreg.pickle(kind, _reduce)
    made = kind.from_buffer(wrapper.create_memoryview())
    made._wrapper = wrapper
    return made


def _reduce(obj: _Ctype) -> Any:
    wrapper = getattr(obj, "_wrapper", None)
    if not isinstance(wrapper, Wrapper):
        return obj.__reduce__()
    lengths = []
    kind: Any = type(obj)
    while issubclass(kind, ctypes.Array) and kind is kind._type_ * kind._length_:
        lengths.append(kind._length_)  # a type that ctypes made has no name to be found by
        kind = kind._type_
    return _rebuild, (kind, tuple(lengths), wrapper)


def _rebuild(kind: Any, lengths: tuple[int, ...], wrapper: Wrapper) -> _Ctype:
    for length in reversed(lengths):
        kind = kind * length
    return _at(kind, wrapper)


# --- with a lock ----------------------------------------------------------------------------------------------------


class _Travels:
    """Goes wherever its object and its lock can go."""

    _obj: Any
    _lock: Any

    def __init__(self, obj: Any, lock: Any) -> None:
        super().__init__(obj, lock)  # type: ignore[call-arg]

    def __reduce__(self) -> tuple[Any, ...]:
        return synchronized, (self._obj, self._lock)


class Synchronized(_Travels, sharedctypes.Synchronized):  # type: ignore[type-arg]
    """A ctypes object and its lock: ``value``, ``get_lock()``, ``get_obj()``."""


class SynchronizedArray(_Travels, sharedctypes.SynchronizedArray):  # type: ignore[type-arg]
    """A ctypes array and its lock."""


class SynchronizedString(_Travels, sharedctypes.SynchronizedString):
    """An array of c_char and its lock: ``value`` and ``raw`` besides."""


_structures: dict[Any, Any] = {}


def synchronized(obj: Any, lock: Any = None) -> Any:
    """*obj* with *lock*, or a lock of its own."""
    assert not isinstance(obj, sharedctypes.SynchronizedBase), "object already synchronized"
    if not lock:
        lock = store().lock()
    if isinstance(obj, ctypes._SimpleCData):
        return Synchronized(obj, lock)
    if isinstance(obj, ctypes.Array):
        return (SynchronizedString if obj._type_ is ctypes.c_char else SynchronizedArray)(obj, lock)
    kind = type(obj)
    wrapping = _structures.get(kind)
    if wrapping is None:
        names = [field[0] for field in kind._fields_]
        properties = {name: sharedctypes.make_property(name) for name in names}  # type: ignore[attr-defined]
        bases = (_Travels, sharedctypes.SynchronizedBase)
        wrapping = _structures[kind] = type(f"Synchronized{kind.__name__}", bases, properties)
    return wrapping(obj, lock)
