"""Large blocks of shared memory: a file without a name for each, mapped once in each process that uses it.

Its life: the file is kept by the open descriptors and mappings of its users, and by the family's root for handles that
are under way. Nothing names it, so there is nothing that could stay behind.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from multitask import _native, errors
from multitask._engine.memory import handles
from multitask._engine.memory.handles import Handle

if TYPE_CHECKING:
    from typing import Self

    class _Mapping:
        """What both classes of mappings have."""

        fd: int
        nbytes: int
        writable: bool
        tie: object  # dropped after the memory was unmapped

        def __new__(cls, fd: int, nbytes: int, writable: bool) -> Self: ...
        @property
        def address(self) -> int: ...
        def __buffer__(self, flags: int, /) -> memoryview: ...
else:
    _Mapping = object

ALIGN = 64
_SEALS = 0x1 | 0x2 | 0x4  # no other seals, no shrinking, no growing
_SEAL_WRITE = 0x8


class Memory(_Mapping):
    """One block, as a buffer. Whoever has a view of it is a user of the file."""

    __slots__ = ()

    key: bytes

    def name(self, key: bytes) -> None:
        """What handles call it; when it goes, the family is told."""
        self.key = key
        self.tie = handles.Tie(key)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.fd < 0:
            raise errors.CannotTravel(
                "shared memory without a file cannot go to another process", why=f"there are none on {sys.platform}"
            )
        handle = handles.write(self, self.fd, self.key)
        return arrive, (tuple(handle), self.nbytes, self.writable)

    def holds(self, low: int, high: int) -> bool:
        """Whether the addresses from *low* up to *high* lie inside."""
        return self.address <= low and high <= self.address + self.nbytes


@cache
def _native_class() -> type[Memory]:
    from multitask._native.shared import Mapping

    @handles.travels
    class NativeMemory(Mapping, Memory):
        __slots__ = ()

    return NativeMemory


@handles.travels
class PortableMemory(mmap.mmap, Memory):
    """The same on the standard library's mmap, which needs one descriptor more."""

    def __new__(cls, fd: int, nbytes: int, writable: bool) -> PortableMemory:
        length = max(nbytes, 1)
        if fd < 0 or not hasattr(mmap, "PROT_READ"):
            made = super().__new__(cls, -1, length)
        else:
            protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
            made = super().__new__(cls, fd, length, mmap.MAP_SHARED, protection)
        made.fd, made.nbytes, made.writable = fd, nbytes, writable
        return made

    @property
    def address(self) -> int:
        return address_of(self)

    def __del__(self) -> None:
        if not hasattr(self, "nbytes"):  # it could not be mapped
            return
        try:
            self.close()
        except BufferError:  # part of a cycle, like those who look at it: unmapped a moment later
            pass
        if self.fd >= 0:
            os.close(self.fd)


def memory_class() -> type[Memory]:
    """How this process maps blocks."""
    return _native_class() if _native.available else PortableMemory


_mapped: weakref.WeakValueDictionary[tuple[bytes, bool], Memory] = weakref.WeakValueDictionary()


def make(nbytes: int, parts: Iterable[Any] | None = None, *, writable: bool = True) -> Memory:
    """A new block of zeros, or with *parts* (contiguous buffers, each put at a multiple of 64) written into it.

    One that is not writable can be changed by nobody, not even here. Raises MemoryError.
    """
    fd = new_file("multitask-memory")
    try:
        if fd >= 0:
            os.ftruncate(fd, max(nbytes, 1))
            _fill(fd, parts or ())
            _seal(fd, writable)
        block = memory_class()(fd, nbytes, writable)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        if error.errno in (errno.ENOMEM, errno.ENOSPC, errno.EFBIG):
            raise MemoryError(f"no memory for {nbytes} shared bytes") from error
        raise
    block.name(handles.new_key())
    if fd < 0:
        _copy_into(block, parts or ())
    _mapped[block.key, writable] = block
    return block


def arrive(handle: tuple[Any, ...], nbytes: int, writable: bool) -> Memory:
    """The reader's side of ``Memory.__reduce__``: the block as it is mapped here already, or mapped now."""
    given = Handle(*handle)
    block = _mapped.get((given.key, writable))
    if block is not None:
        handles.arrived(given)
        return block
    block = _map(handles.borrow(given), given.key, nbytes, writable)
    return _mapped.setdefault((given.key, writable), block)


def read_only(block: Memory) -> Memory:
    """The same memory through a mapping that cannot be written to."""
    if not block.writable:
        return block
    found = _mapped.get((block.key, False))
    if found is None:
        found = _mapped.setdefault((block.key, False), _map(os.dup(block.fd), block.key, block.nbytes, False))
    return found


def _map(fd: int, key: bytes, nbytes: int, writable: bool) -> Memory:
    try:
        block = memory_class()(fd, nbytes, writable)
    except BaseException:
        os.close(fd)
        raise
    block.name(key)
    return block


def open_again(block: Memory) -> int:
    """A descriptor with an open file description of its own, which holds no lock. OSError where that cannot be had."""
    return os.open(f"/proc/self/fd/{block.fd}", os.O_RDONLY | os.O_CLOEXEC)


def uncounted(block: Memory) -> Memory:
    """One more mapping of *block*, read-only, that does not make this process a user of it."""
    fd = open_again(block)
    try:
        made = memory_class()(fd, block.nbytes, False)
        made.fd = -1
    finally:
        os.close(fd)  # the mapping stays
    return made


def new_file(name: str) -> int:
    """A file in memory that nothing names; -1 where files cannot be mapped and handed on."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    if os.name != "posix":
        return -1
    fd, path = tempfile.mkstemp(prefix=name)
    os.unlink(path)
    return fd


def _fill(fd: int, parts: Iterable[Any]) -> None:
    # Writing is twice as fast as copying into a fresh mapping, page by page.
    at = 0
    for part in parts:
        view = memoryview(part).cast("B") if memoryview(part).nbytes else memoryview(b"")
        at = aligned(at)
        while view:
            written = os.pwrite(fd, view, at)
            view = view[written:]
            at += written


def _copy_into(block: Memory, parts: Iterable[Any]) -> None:
    at = 0
    for part in parts:
        view = memoryview(part).cast("B")
        at = aligned(at)
        memoryview(block)[at : at + len(view)] = view
        at += len(view)


def _seal(fd: int, writable: bool) -> None:
    """Nobody can shorten the file under its readers, nor write to one that is not meant to change."""
    if not hasattr(os, "memfd_create"):
        return
    import fcntl

    seals = _SEALS if writable else _SEALS | _SEAL_WRITE
    fcntl.fcntl(fd, getattr(fcntl, "F_ADD_SEALS", 1033), seals)


def aligned(at: int) -> int:
    """*at*, or the next multiple of 64."""
    return -(-at // ALIGN) * ALIGN


_PyBUF_STRIDES = 0x18


def address_of(source: Any) -> int:
    """Where the first item of a buffer lies."""
    view = (ctypes.c_byte * 128)()  # a Py_buffer, whose first field it is
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(source), view, _PyBUF_STRIDES)
    try:
        return ctypes.c_void_p.from_buffer(view).value or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(view)
