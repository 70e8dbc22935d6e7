"""Large contents whose memory can be told apart, and what tasks do with them."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
from pathlib import Path
from typing import Any

SIZE = 2 << 20  # large enough to be worth writing again


class Block:
    """Memory full of one byte; it travels out of band, so that what arrives is the segment itself."""

    def __init__(self, content: Any) -> None:
        self.view = memoryview(content)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.view),)

    def holds(self, byte: int) -> bool:
        return bytes(self.view) == bytes([byte]) * SIZE

    def scribble(self) -> None:
        self.view[:] = b"\xff" * len(self.view)

    def inode(self) -> str:
        """The number of the file behind the memory."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.view))
        for line in Path("/proc/self/maps").read_text().splitlines():
            where, *_, inode, _name = [*line.split(maxsplit=5), ""][:6]
            low, _, high = where.partition("-")
            if int(low, 16) <= address < int(high, 16):
                return inode
        raise LookupError("no such mapping")


def full_of(byte: int) -> Block:
    return Block(bytearray([byte]) * SIZE)


def segments(pid: int | str) -> list[str]:
    """The descriptors of segments in process *pid*, and its mappings of such."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            name = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        if name.startswith("/memfd:multitask "):
            found.append(f"fd {fd}")
    return found + [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/memfd:multitask " in line]


# --- in a task

kept: list[Block] = []


def keep(block: Block) -> None:
    kept.append(block)


def check_kept(first: int) -> list[int]:
    """The numbers of the kept blocks, from *first* on, that are not as they came."""
    return [number for number, block in enumerate(kept, first) if not block.holds(number)]


def inode_of(block: Block) -> str:
    return block.inode()


def byte_of(block: Block) -> int:
    byte = block.view[0]
    assert block.holds(byte)
    return byte


def hand_to_a_child(block: Block, byte: int, gate: Any, verdict: str) -> None:
    """Fork a child that has *block* when this process has forgotten it; it waits at the gate and then looks."""
    if os.fork() == 0:
        try:
            gate.hold()
            with open(verdict, "w") as file:
                file.write("intact" if block.holds(byte) else "changed")
        finally:
            os._exit(0)


def fail_once(block: Block, byte: int, trace: str, how: str) -> bool:
    """Spoil the argument and fail, or die, at the first try; at the second say whether it came as it was sent."""
    intact = block.holds(byte)
    if os.path.exists(trace):
        return intact
    block.scribble()
    open(trace, "w").close()
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("the first try")
