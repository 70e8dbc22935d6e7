"""A gate that a task stops at, in whatever process or thread it runs: the test decides when things happen.

Two named pipes in a folder; the test holds both open for reading and writing, so that nobody blocks in open().
"""

from __future__ import annotations

import os
from pathlib import Path


class Gate:
    """Travels to workers as the path of its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    # --- in a task

    def hold(self, value: object = None) -> object:
        """Say that the task is here, wait to be let through, return *value*."""
        arrived = os.open(f"{self.folder}/arrived", os.O_WRONLY)
        os.write(arrived, b".")
        os.close(arrived)
        released = os.open(f"{self.folder}/released", os.O_RDONLY)
        os.read(released, 1)
        os.close(released)
        return value


class Keeper(Gate):
    """The test's side of a Gate."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        folder.mkdir()
        for name in ("arrived", "released"):
            os.mkfifo(folder / name)
        self._arrived = os.open(folder / "arrived", os.O_RDWR | os.O_CLOEXEC)
        self._released = os.open(folder / "released", os.O_RDWR | os.O_CLOEXEC)

    def wait_arrived(self, tasks: int = 1) -> None:
        """Wait until that many tasks more have come to the gate."""
        for _ in range(tasks):
            os.read(self._arrived, 1)

    def release(self, tasks: int = 1) -> None:
        """Let that many tasks through, those at the gate or the next to come."""
        os.write(self._released, b"." * tasks)

    def close(self) -> None:
        """Let everybody through; who comes later finds no gate and fails."""
        for name in ("arrived", "released"):
            os.unlink(f"{self.folder}/{name}")
        self.release(100)
        os.close(self._arrived)
        os.close(self._released)

    def __reduce__(self):
        return (Gate, (Path(self.folder),))
