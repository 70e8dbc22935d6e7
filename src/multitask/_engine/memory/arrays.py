"""NumPy arrays in shared memory. Imported only where NumPy is."""

from __future__ import annotations

from typing import Any

import numpy

from multitask._engine.memory import memory
from multitask._engine.memory.memory import Memory


class SharedArray(numpy.ndarray):
    """A NumPy array in shared memory. It, its slices and its views travel as handles; what is computed is ordinary."""

    _memory: Memory | None = None

    def __array_finalize__(self, obj: Any) -> None:
        found = getattr(obj, "_memory", None)
        # A copy must not keep the memory of what it was copied from.
        self._memory = found if found is not None and numpy.may_share_memory(self, obj) else None

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        if array is self or (isinstance(array, SharedArray) and array._memory is not None):
            return array  # out= was in shared memory
        plain = array.view(numpy.ndarray)
        return plain[()] if return_scalar or (not plain.shape and not _NUMPY_2) else plain

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if type(found) is SharedArray and found._memory is None:
            return found.view(numpy.ndarray)
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        block = self._memory
        if block is None or not self.size or not block.holds(*_bounds(self)):
            return self.view(numpy.ndarray).__reduce_ex__(protocol)
        offset = _start(self) - block.address
        if not self.flags.writeable:
            block = memory.read_only(block)
        return _rebuild, (block, offset, self.shape, self.strides, self.dtype)

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)


_NUMPY_2 = int(numpy.__version__.partition(".")[0]) >= 2


def _bounds(array: Any) -> tuple[int, int]:
    bounds = numpy.lib.array_utils.byte_bounds if _NUMPY_2 else numpy.byte_bounds  # type: ignore[attr-defined]
    return bounds(array)


def _rebuild(block: Memory, offset: int, shape: Any, strides: Any, dtype: Any) -> SharedArray:
    made: SharedArray = numpy.ndarray.__new__(SharedArray, shape, dtype, block, offset, strides)  # type: ignore[arg-type]
    made._memory = block
    return made


def is_array(obj: object) -> bool:
    """Whether *obj* is an array that can be shared as one: a subclass has more than its items."""
    return type(obj) in (numpy.ndarray, numpy.memmap, SharedArray)


def share(array: Any, writable: bool) -> SharedArray:
    """A copy of *array* in shared memory; what lies there already is not copied again."""
    if isinstance(array, SharedArray) and array._memory is not None and (not writable or array.flags.writeable):
        return _again(array, writable)
    _check(array.dtype)
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = numpy.ascontiguousarray(array)
    content = array if array.flags.c_contiguous else array.T
    block = memory.make(array.nbytes, [_bytes_of(content)], writable=writable)
    return _rebuild(block, 0, array.shape, array.strides, array.dtype)


def _again(array: SharedArray, writable: bool) -> SharedArray:
    block = array._memory
    assert block is not None
    if writable == array.flags.writeable:
        return array
    offset = _start(array) - block.address
    return _rebuild(memory.read_only(block), offset, array.shape, array.strides, array.dtype)


def _start(array: Any) -> int:
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def _bytes_of(array: Any) -> Any:
    """The content as a flat buffer: NumPy exports no buffer for some types (dates), so its items become bytes."""
    return array.reshape(-1).view(numpy.uint8) if array.nbytes else b""


def zeros(shape: Any, dtype: Any, order: str) -> SharedArray:
    """A writable array of zeros, made in shared memory."""
    kind = numpy.dtype(dtype)
    _check(kind)
    if order not in ("C", "F"):
        raise ValueError(f"order must be 'C' or 'F', not {order!r}")
    # NumPy works out shape and strides; a read-only broadcast of one item takes no memory for it.
    dimensions = numpy.broadcast_to(numpy.zeros((), kind), shape).shape
    count = 1
    for length in dimensions:
        count *= length
    block = memory.make(count * kind.itemsize)
    made: SharedArray = numpy.ndarray.__new__(SharedArray, dimensions, kind, block, 0, None, order)  # type: ignore[arg-type]
    made._memory = block
    return made


def _check(dtype: Any) -> None:
    if dtype.hasobject:
        raise TypeError(
            "an array of Python objects cannot be shared: it holds addresses that mean nothing in another process; "
            "share(array.tolist()) shares copies of the objects"
        )
