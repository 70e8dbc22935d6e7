"""Buffers without NumPy in shared memory: what ``share(b"...")`` returns is a memoryview that travels as a handle."""

from __future__ import annotations

import copyreg
from typing import Any

from multitask._engine.memory import memory
from multitask._engine.memory.memory import Memory, address_of


def share(source: Any, writable: bool) -> memoryview:
    """A memoryview of a shared copy of *source*, with its format and shape; of what is shared already, no copy."""
    view = memoryview(source)
    if isinstance(view.obj, Memory) and (not writable or not view.readonly):
        if writable or view.readonly:
            return view
        return _rebuild(memory.read_only(view.obj), *_place(view))
    content = view if view.c_contiguous else view.tobytes()
    block = memory.make(view.nbytes, [content], writable=writable)
    return _rebuild(block, 0, view.nbytes, view.format, view.shape or ())


def _rebuild(block: Memory, offset: int, nbytes: int, format: str, shape: tuple[int, ...]) -> memoryview:
    flat = memoryview(block)[offset : offset + nbytes]
    if not nbytes:
        return flat
    try:
        return flat.cast(format, shape) if len(shape) != 1 or format != "B" else flat  # type: ignore[call-overload]
    except ValueError:  # a format that memoryview can pass on and not make
        return flat


def _place(view: memoryview) -> tuple[int, int, str, tuple[int, ...]]:
    assert isinstance(view.obj, Memory)
    return address_of(view) - view.obj.address, view.nbytes, view.format, view.shape or ()


def _reduce(view: memoryview) -> tuple[Any, ...]:
    block = view.obj
    if not isinstance(block, Memory):
        raise TypeError("cannot pickle 'memoryview' object")
    if not view.c_contiguous:
        raise TypeError("cannot pickle a memoryview with gaps; share(view) makes one without")
    if view.readonly:
        place = _place(view)
        return _rebuild, (memory.read_only(block), *place)
    return _rebuild, (block, *_place(view))


# Nobody else pickles memoryviews; those that are not shared fail as before.
copyreg.pickle(memoryview, _reduce)
