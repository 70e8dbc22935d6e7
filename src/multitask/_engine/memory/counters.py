"""Counter, the public class: the atomic one on the native core, the one with a lock without it."""

from __future__ import annotations

import operator
from typing import Any

from multitask import _native

_LOW, _HIGH = -(1 << 63), (1 << 63) - 1


class Counter:
    """A whole number that threads and processes change together, exactly.

    ``Counter(0)`` starts at 0 and has 64 bits: what would leave them raises OverflowError and changes nothing.
    Each method is one atomic step; natively ``add`` is one instruction of the processor. Travels to running workers
    like a Value.
    """

    __slots__ = ()

    def __new__(cls, value: int = 0) -> Counter:
        return _flavour()(_whole(value))  # type: ignore[no-any-return]

    def __init__(self, value: int = 0) -> None:
        pass

    def add(self, n: int = 1) -> int:
        """Add *n* (may be negative); the new value."""
        raise NotImplementedError

    def get(self) -> int:
        """The value now."""
        raise NotImplementedError

    def set(self, n: int) -> None:
        """Make it *n*, whatever it was."""
        raise NotImplementedError

    def compare_and_set(self, old: int, new: int) -> bool:
        """Make it *new* if it is *old*; whether it was."""
        raise NotImplementedError

    @property
    def value(self) -> int:
        """The value now; may be assigned. ``c.value += 1`` is two steps, between which others come in: use ``add``."""
        return self.get()

    @value.setter
    def value(self, n: int) -> None:
        self.set(n)

    def __iadd__(self, n: int) -> Counter:
        self.add(n)
        return self

    def __isub__(self, n: int) -> Counter:
        self.add(-operator.index(n))
        return self

    def __int__(self) -> int:
        return self.get()

    def __index__(self) -> int:
        return self.get()

    def __repr__(self) -> str:
        return f"<Counter {self.get()}>"


def _whole(n: Any) -> int:
    number = operator.index(n)
    if not _LOW <= number <= _HIGH:
        raise OverflowError(f"{number} does not fit into the 64 bits of a Counter")
    return number


class PortableCounter(Counter):
    """Behind a lock."""

    __slots__ = ("__weakref__", "_block", "_lock", "_word")

    _block: Any
    _lock: Any
    _word: Any

    def __new__(cls, *args: Any) -> PortableCounter:
        return object.__new__(cls)

    def __init__(self, value: int = 0, block: Any = None, lock: Any = None) -> None:
        from multitask._engine.memory import portable

        self._block = portable.block(8) if block is None else block
        self._lock = portable.lock() if lock is None else lock
        self._word = memoryview(self._block).cast("B")[:8].cast("q")
        if block is None:
            self._word[0] = value

    def __reduce__(self) -> tuple[Any, ...]:
        return PortableCounter, (0, self._block, self._lock)

    def add(self, n: int = 1) -> int:
        more = operator.index(n)
        with self._lock:
            total: int = self._word[0] + more
            if not _LOW <= total <= _HIGH:
                raise OverflowError(
                    f"adding {more} would leave the 64 bits of a Counter, which stays at {self._word[0]}"
                )
            self._word[0] = total
            return total

    def get(self) -> int:
        return self._word[0]  # type: ignore[no-any-return]

    def set(self, n: int) -> None:
        number = _whole(n)
        with self._lock:
            self._word[0] = number

    def compare_and_set(self, old: int, new: int) -> bool:
        expected, wanted = operator.index(old), _whole(new)
        with self._lock:
            if self._word[0] != expected:
                return False
            self._word[0] = wanted
            return True


def _flavour() -> Any:
    if _native.available:
        from multitask._engine.memory.atomic import new

        return new
    return PortableCounter
