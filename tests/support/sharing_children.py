"""Forked children that get shared objects through a pipe, as a running worker would, and can be killed at any time."""

from __future__ import annotations

import os
import pickle
import signal
import struct
from collections.abc import Callable
from typing import Any

from multitask._engine.memory import handles

LENGTH = struct.Struct("=Q")


class Child:
    """Calls ``use(*things, say)`` with what ``give`` sends it; ``say`` writes a line of bytes that ``hear`` reads."""

    def __init__(self, use: Callable[..., None]) -> None:
        read, write = os.pipe()
        heard, said = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                signal.alarm(60)  # only detects a hang
                os.close(write)
                os.close(heard)
                things = pickle.loads(_read(read, LENGTH.unpack(_read(read, LENGTH.size))[0]))
                use(*things, lambda text: os.write(said, text + b"\n"))
                code = 0
            finally:
                os._exit(code)
        os.close(read)
        os.close(said)
        self._to, self._from = write, heard
        self.kept: list[object] = []

    def give(self, *things: Any) -> None:
        """Send *things*; what the handles stand for is kept until ``end``, as the engine does for a task."""
        with handles.keeping(self.kept):
            data = pickle.dumps(things)
        try:
            os.write(self._to, LENGTH.pack(len(data)) + data)
        except BrokenPipeError:  # it was killed already
            pass

    def hear(self) -> bytes:
        """What it said next, one character a time; b"" when it has ended."""
        return os.read(self._from, 4096)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Wait for it; its exit code, or minus the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self._to)
        os.close(self._from)
        self.kept.clear()
        return os.waitstatus_to_exitcode(status)


def _read(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = os.read(fd, count - len(data))
        if not part:
            os._exit(2)
        data += part
    return data


def use_all(counter: Any, value: Any, array: Any, shared: Any, say: Callable[[bytes], object]) -> None:
    """Use everything for ever."""
    say(b"here")
    while True:
        counter.add()
        with value.get_lock():
            value.value += 1
        array[:10] += 1
        shared.value.append(1)
