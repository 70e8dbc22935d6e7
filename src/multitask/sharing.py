"""Memory that several workers see: Value and Array, Counter, and share() for arrays, buffers and objects.

Nothing of it has a name in the file system. It is freed with its last user, in whatever process, however that ends;
and all of it travels: as an argument or result of a task, in a queue, to a ``multiprocessing.Process``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from multitask._engine.memory.counters import Counter

if TYPE_CHECKING:
    import array
    import mmap

    import numpy

    from multitask._engine.memory.objects import Shared

    Buffer = bytes | bytearray | memoryview | array.array[Any] | mmap.mmap

__all__ = ["Array", "Counter", "RawArray", "RawValue", "Shared", "Value", "copy", "share", "synchronized"]

T = TypeVar("T")


def Value(typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
    """A ctypes object in shared memory with a lock: ``multiprocessing.Value``, which also travels to running workers.

    *typecode_or_type* is a ctypes type or one of the letters of ``array``; *args* go to its constructor. ``value``
    reads and writes under the lock; ``value += 1`` is two steps and needs ``with v.get_lock():`` around it (or a
    Counter).
    ``lock=False`` gives the bare ctypes object. A process that dies holding the lock leaves it to the next.
    """
    from multitask._engine.memory import synchronized

    return synchronized.value(typecode_or_type, args, lock)


def Array(typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True) -> Any:
    """A ctypes array in shared memory with a lock: ``multiprocessing.Array``, which also travels to running workers.

    A number gives that many zeros, a sequence its items. Each access to an item or slice takes the lock. An array of
    ``"c"`` has ``value`` and ``raw`` for bytes. ``lock=False`` gives the bare ctypes array.
    """
    from multitask._engine.memory import synchronized

    return synchronized.array(typecode_or_type, size_or_initializer, lock)


def RawValue(typecode_or_type: Any, *args: Any) -> Any:
    """A ctypes object in shared memory, without a lock."""
    from multitask._engine.memory import synchronized

    return synchronized.raw_value(typecode_or_type, *args)


def RawArray(typecode_or_type: Any, size_or_initializer: Any) -> Any:
    """A ctypes array in shared memory, without a lock."""
    from multitask._engine.memory import synchronized

    return synchronized.raw_array(typecode_or_type, size_or_initializer)


def copy(obj: Any) -> Any:
    """A copy of a ctypes object, in shared memory: ``multiprocessing.sharedctypes.copy``."""
    from multitask._engine.memory import synchronized

    return synchronized.copy(obj)


def synchronized(obj: Any, lock: Any = None) -> Any:
    """A ctypes object of RawValue or RawArray with a lock: ``multiprocessing.sharedctypes.synchronized``."""
    from multitask._engine.memory import synchronized as module

    return module.synchronized(obj, lock)


class Share:
    """``share(x)`` puts a copy of *x* into shared memory once; it travels as a handle and is mapped, not copied.

    A NumPy array comes back as an array (its slices and views travel as handles too), any other buffer as a memoryview,
    anything else as a ``Shared``, whose ``value`` each process unpickles once. It is read-only for everybody unless
    ``writable=True``; then all processes write to the same memory, without any lock. What lies in shared memory
    already is not copied again: ``share(array)`` of a writable one gives a read-only view of it.

    Raises TypeError for arrays of Python objects and for ``writable=True`` on what is no buffer, CannotTravel with the
    path for what cannot be pickled, MemoryError.
    """

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, obj: numpy.ndarray[Any, Any], /, *, writable: bool = False
    ) -> numpy.ndarray[Any, Any]: ...
    @overload
    def __call__(self, obj: Buffer, /, *, writable: bool = False) -> memoryview: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, obj: T, /, *, writable: Literal[False] = False) -> Shared[T]: ...
    def __call__(self, obj: Any, /, *, writable: bool = False) -> Any:
        numpy = sys.modules.get("numpy")  # who has an array has imported it
        if numpy is not None and isinstance(obj, (numpy.ndarray, numpy.generic)):
            from multitask._engine.memory import arrays

            if arrays.is_array(obj):
                return arrays.share(obj, writable)
        elif _is_buffer(obj):
            from multitask._engine.memory import buffers

            return buffers.share(obj, writable)
        if writable:
            raise TypeError(
                f"a {type(obj).__name__} cannot be shared writable: each process has an unpickled copy of it; "
                "only arrays and other buffers can"
            )
        from multitask._engine.memory import objects

        return objects.share(obj)

    def zeros(self, shape: Any, dtype: Any = float, *, order: str = "C") -> numpy.ndarray[Any, Any]:
        """A NumPy array of zeros made in shared memory, writable by all: nothing is copied. Needs NumPy."""
        from multitask._engine.memory import arrays

        return arrays.zeros(shape, dtype, order)

    def empty(self, shape: Any, dtype: Any = float, *, order: str = "C") -> numpy.ndarray[Any, Any]:
        """The same as ``zeros``, for those who will write to all of it: new memory is zeros anyway."""
        return self.zeros(shape, dtype, order=order)

    def __repr__(self) -> str:
        return "<function share>"


share = Share()


def _is_buffer(obj: object) -> bool:
    try:
        memoryview(obj).release()  # type: ignore[arg-type]
    except (TypeError, BufferError):
        return False
    return True


def __getattr__(name: str) -> Any:
    if name == "Shared":
        from multitask._engine.memory.objects import Shared

        return Shared
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
