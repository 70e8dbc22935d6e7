"""What a process and its fork server say to each other: descriptors, single letters and pairs of numbers."""

from __future__ import annotations

import _socket as socket  # the module around it takes as long to load as the fork server's own
import array
import struct

MOST_DESCRIPTORS = 200  # the kernel's limit for one message is 253
ANSWER = struct.Struct("=ii")  # pid and errno after a request, state and status after REAP
REAP = b"r"
BOUND, FREE = b"w", b"f"  # requests: for a process that ends with its parent, and for one that may outlive it
ENDED, RUNNING, UNKNOWN = 0, 1, 2


def receive(end: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """A message and up to *most* descriptors with it, close-on-exec (socket.recv_fds drops its flags)."""
    found = array.array("i")
    space = socket.CMSG_SPACE(most * found.itemsize)
    content, notes, _, _ = end.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in notes:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) // found.itemsize * found.itemsize])
    return content, list(found)
