"""The native Counter: one cell of an arena."""

from __future__ import annotations

from typing import Any

from multitask._engine.memory import handles, native
from multitask._engine.memory.counters import Counter
from multitask._native import shared


@handles.travels
class NativeCounter(shared.AtomicCounter, Counter):
    """By atomic instructions."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return native.reduce(self)


def new(value: int) -> NativeCounter:
    """A counter that starts at *value*."""
    counter = native.arenas.take(NativeCounter, 8)
    if value:
        counter.set(value)
    return counter
