"""The way between a core and a worker process where there are no rings: a pipe in each direction and a shared page.

    parent: PipeChannel  ══ requests ══►  ChildPipe :worker
                         ◄══ replies ═══
                         ◄── Board (what has been started, last words)

Rules. The parent never blocks: what a full pipe does not take stays in ``_out`` until ``flush``, and what has come
of a reply stays in ``_in`` until the rest comes. A worker killed in the middle of a reply leaves a partial message
that nobody sees. A worker marks a call as taken on the board before it starts it, so that after its death
the parent knows whether the call was started, wherever the kill struck.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from multitask._engine.channels import board, kinds
from multitask._engine.channels.frames import Frames, Message, frame

BULK = 1 << 18  # bytes read at once
PIECES = 64  # written at once; every system allows more


def make() -> tuple[PipeChannel, list[int]]:
    """The parent's end, and the descriptors for the worker's ``ChildPipe``.

    The caller closes those descriptors in this process (``PipeChannel.close_child``) once the worker has them.
    """
    fds: list[int] = []
    try:
        fds += os.pipe()
        fds += os.pipe()
        fds.append(board.make())
        child_in, parent_out, parent_in, child_out, page = fds
        return PipeChannel(parent_in, parent_out, page, [child_in, child_out, page]), [child_in, child_out, page]
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


class PipeChannel:
    """The parent's end of one worker's channel. Manager thread only."""

    def __init__(self, fd_in: int, fd_out: int, page: int, child_fds: Sequence[int]) -> None:
        os.set_blocking(fd_in, False)
        os.set_blocking(fd_out, False)
        self.board = board.Board(page)
        self.fd_in = fd_in
        self.fd_out = fd_out
        self.calls = 0  # how many were sent
        self.ended = False  # nothing more will come from the worker
        self.broken = False  # the worker reads no more, or writes what is no message
        self._child_fds = list(child_fds)
        self._in = Frames()
        self._out: deque[memoryview] = deque()
        self._scratch = memoryview(bytearray(BULK))
        self._open = True

    def close_child(self) -> None:
        """Close the worker's descriptors in this process: without that its death would not end the stream."""
        fds, self._child_fds = self._child_fds, []
        for fd in fds:
            os.close(fd)

    def fileno(self) -> int:
        """Readable when the worker has sent something or is gone."""
        return self.fd_in

    def send(self, kind: int, *content: Any) -> None:
        """Send a message as far as the pipe takes it; the rest goes with ``flush``. Never blocks."""
        if kind == kinds.CALL:
            self.calls += 1
        self._out.extend(frame(kind, *content))
        self.flush()

    @property
    def pending(self) -> bool:
        """Whether something waits for ``flush``."""
        return bool(self._out)

    def flush(self) -> None:
        """Write what the pipe takes now."""
        while self._out and not self.broken:
            pieces = [self._out[number] for number in range(min(PIECES, len(self._out)))]
            try:
                count = os.writev(self.fd_out, pieces)
            except BlockingIOError:
                return
            except OSError:
                self.broken = True  # its death will be told by others
                break
            while count:
                if count < len(self._out[0]):
                    self._out[0] = self._out[0][count:]
                    break
                count -= len(self._out.popleft())
        if self.broken:
            self._out.clear()

    def receive(self) -> list[Message]:
        """The messages that are complete by now. Never blocks."""
        frames = self._in
        while not self.ended:
            want = frames.want
            direct = len(want) >= BULK  # large contents go where they belong without another copy
            try:
                count = os.readv(self.fd_in, [want if direct else self._scratch])
            except BlockingIOError:
                break
            except OSError:
                count = 0
            if not count:
                self.ended = True
                break
            try:
                if direct:
                    frames.advance(count)
                else:
                    frames.feed(self._scratch[:count])
            except (ValueError, UnicodeDecodeError, MemoryError, OverflowError):
                self.broken = self.ended = True
                break
            if not direct and count < BULK:
                break  # the pipe was empty
        messages, frames.messages = frames.messages, []
        return messages

    def close(self) -> None:
        """Close everything on this side."""
        if self._open:
            self._open = False
            self._out.clear()
            self.close_child()
            os.close(self.fd_in)
            os.close(self.fd_out)
            self.board.close()

    # --- what the worker has left on the board

    @property
    def taken(self) -> bool:
        """Whether the worker has started the call that was sent last."""
        return self.calls > 0 and self.board.taken == self.calls

    def resident(self) -> int | None:
        """Bytes of memory that the worker occupied when it last looked."""
        return self.board.resident


class ChildPipe:
    """The worker's end; blocking. ``receive`` by one thread, ``send`` by any."""

    def __init__(self, fds: Sequence[int]) -> None:
        self._fd_in, self._fd_out, page = fds
        for fd in fds:
            os.set_inheritable(fd, False)  # programs that a task starts must not keep the channel open
        self.board = board.Board(page)
        os.close(page)
        self._in = Frames()
        self._file = io.BufferedReader(io.FileIO(self._fd_in, "rb"), 65536)
        self._calls = 0
        self._sending = threading.Lock()

    def receive(self) -> Message:
        """The next message; blocks. Raises EOFError when the parent is gone: the worker must end then.

        A CALL counts as started when this returns it.
        """
        frames = self._in
        while not frames.messages:
            if self._file.readinto(frames.want) != len(frames.want):
                raise EOFError("the submitting process is gone")
            frames.filled()
        message = frames.messages.pop(0)
        if message[0] == kinds.CALL:
            self._calls += 1
            self.board.took(self._calls)
        return message

    def send(self, kind: int, *content: Any) -> None:
        """Send a message; blocks while the parent does not read. Raises BrokenPipeError when it is gone."""
        pieces = frame(kind, *content)
        with self._sending:
            while pieces:
                count = os.writev(self._fd_out, pieces[:PIECES])
                while pieces and count >= len(pieces[0]):
                    count -= len(pieces.pop(0))
                if count:
                    pieces[0] = pieces[0][count:]

    def item(self, index: int) -> None:
        """The running call is at this item of its chunk."""
        self.board.item(index)

    def occupies(self, size: int) -> None:
        """This worker's size now, in bytes."""
        self.board.occupies(size)

    def note(self, data: bytes) -> None:
        """The running call's last words so far (a ``notes.sink``)."""
        self.board.note(data)

    def close(self) -> None:
        """Close this end."""
        with contextlib.suppress(OSError):
            self._file.close()
            os.close(self._fd_out)
        self.board.close()
