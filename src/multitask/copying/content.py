"""The bytes of one file: small ones in one read and one write, large ones inside the kernel, holes kept.

Sources: copy_file_range(2), sendfile(2), lseek(2) (SEEK_DATA).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

SMALL_BYTES = 256 << 10
# Between two blocks a stop is noticed and the progress of a large file can be seen.
BLOCK_BYTES = 16 << 20
READ_BYTES = 1 << 20

# What the kernel answers where it cannot copy between these two files itself.
_CANNOT = {
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EBADF,
    errno.ETXTBSY,
}


def copy(source: int, target: int, facts: os.stat_result, pause: Callable[[], None]) -> int:
    """Copy all of *source* (its fstat is *facts*) to the empty *target*; returns the bytes of content.

    *pause* is called between blocks and may raise to stop.
    """
    size = facts.st_size
    if size <= SMALL_BYTES:
        return _small(source, target, size, pause)
    if _has_holes(facts) and hasattr(os, "SEEK_DATA"):
        return _sparse(source, target, size, pause)
    done = _inside_kernel(source, target, 0, size, pause)
    return done + _by_hand(source, target, None, pause)


def _small(source: int, target: int, size: int, pause: Callable[[], None]) -> int:
    data = os.read(source, max(size + 1, 4096))
    _write_all(target, data)
    if len(data) == size:
        return size
    return len(data) + _by_hand(source, target, None, pause)


def _has_holes(facts: os.stat_result) -> bool:
    return getattr(facts, "st_blocks", facts.st_size) * 512 < facts.st_size


def _sparse(source: int, target: int, size: int, pause: Callable[[], None]) -> int:
    """Copy the data between the holes; the destination gets the same holes."""
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            raise
        at = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(source, start, os.SEEK_SET)
        os.lseek(target, start, os.SEEK_SET)
        done = _inside_kernel(source, target, start, at - start, pause)
        _by_hand(source, target, at - start - done, pause)
    os.ftruncate(target, size)
    return size


def _inside_kernel(source: int, target: int, start: int, size: int, pause: Callable[[], None]) -> int:
    """Copy up to *size* bytes without bringing them here; returns how many, possibly 0. Both offsets move along."""
    for way in (_range, _send):
        done = 0
        try:
            while done < size:
                pause()
                count = way(source, target, start + done, min(size - done, BLOCK_BYTES))
                if count == 0:
                    break
                done += count
        except OSError as error:
            if done or error.errno not in _CANNOT:
                raise
        if done:
            # sendfile was given an offset, so it left that of the source alone.
            os.lseek(source, start + done, os.SEEK_SET)
            return done
    return 0


def _range(source: int, target: int, offset: int, count: int) -> int:
    if not hasattr(os, "copy_file_range"):
        return 0
    return os.copy_file_range(source, target, count)


def _send(source: int, target: int, offset: int, count: int) -> int:
    if not hasattr(os, "sendfile"):
        return 0
    return os.sendfile(target, source, offset, count)


def _by_hand(source: int, target: int, most: int | None, pause: Callable[[], None]) -> int:
    """Copy through memory from where both stand, to the end of the source or *most* bytes."""
    done = 0
    while most is None or done < most:
        pause()
        data = os.read(source, READ_BYTES if most is None else min(READ_BYTES, most - done))
        if not data:
            break
        _write_all(target, data)
        done += len(data)
    return done


def _write_all(target: int, data: bytes) -> None:
    written = os.write(target, data) if data else 0
    while written < len(data):
        written += os.write(target, memoryview(data)[written:])
