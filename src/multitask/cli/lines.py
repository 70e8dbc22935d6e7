"""Lines from a file or a pipe, which can be stopped while it waits for the next one."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator

READ_BYTES = 1 << 16


class Lines:
    """Iterate to get the lines as text without their ends; ``stop()`` from another thread ends the iteration.

    ``before_wait`` is called when there is nothing to read for now.
    ``sys.stdin`` is not used: a thread that waits in it keeps its lock, and the interpreter cannot end then.
    Bytes that are not UTF-8 are kept (surrogateescape).
    """

    def __init__(self, path: str) -> None:
        """*path* "-" is standard input. Raises OSError when it cannot be opened."""
        self.before_wait: Callable[[], object] = lambda: None
        self._own = path != "-"
        self._fd = os.open(path, os.O_RDONLY) if self._own else os.dup(0)
        if self._own and os.path.isdir(path):
            os.close(self._fd)
            raise IsADirectoryError(21, "Is a directory", path)
        self._woken, self._wake = os.pipe()

    def stop(self) -> None:
        """End the iteration, wherever it waits."""
        os.write(self._wake, b"x")

    def close(self) -> None:
        """Give the descriptors back; only when nobody iterates any more."""
        for fd in (self._fd, self._woken, self._wake):
            os.close(fd)

    def __iter__(self) -> Iterator[str]:
        rest: list[bytes] = []
        while data := self._read():
            pieces = data.split(b"\n")
            if len(pieces) == 1:
                rest.append(data)
                continue
            yield _text(b"".join([*rest, pieces[0]]))
            for piece in pieces[1:-1]:
                yield _text(piece)
            rest = [pieces[-1]] if pieces[-1] else []
        if rest:
            yield _text(b"".join(rest))

    def _read(self) -> bytes:
        if sys.platform != "win32":  # select() there takes sockets only
            ready, _, _ = select.select([self._fd, self._woken], [], [], 0)
            if not ready:
                self.before_wait()
                ready, _, _ = select.select([self._fd, self._woken], [], [])
            if self._woken in ready:
                return b""
        return os.read(self._fd, READ_BYTES)


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "surrogateescape")
