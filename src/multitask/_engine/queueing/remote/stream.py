"""The server's end of one connection: whole pieces are read from it, however large, without copying them twice.

asyncio's own StreamReader stops and starts the transport for each 128 KiB of a large message and copies it three times.
Rule: memory grows with what has really arrived, never by a length that the other side has named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

SMALL_BYTES = 1 << 16  # read ahead, for heads and small frames
FIRST_BYTES = 1 << 20  # how much memory a large piece has at first; it doubles when that is full
ALONE_BYTES = 1 << 16  # parts from this size on are not joined with others to be written


class Stream(asyncio.BufferedProtocol):
    """One connection. ``heard``: when the other side was last heard of, by the loop's clock."""

    def __init__(self, accepted: Any) -> None:
        self._accepted = accepted  # called with the stream once it is connected
        self._loop = asyncio.get_running_loop()
        self._small = bytearray(SMALL_BYTES)
        self._from = self._to = 0  # where in it unread bytes are
        self._large: bytearray | None = None
        self._filled = self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._paused = self._lost = False
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.heard = self._loop.time()
        self.transport: Any = None

    # --- reading -----------------------------------------------------------------------------------------

    async def exactly(self, length: int) -> bytes | bytearray:
        """The next *length* bytes. Raises EOFError when the other side goes before."""
        if length > SMALL_BYTES:
            return await self._much(length)
        while self._to - self._from < length:
            if self._from + length > SMALL_BYTES:
                rest = self._small[self._from : self._to]
                self._small[: len(rest)] = rest
                self._from, self._to = 0, len(rest)
            await self._more()
        data = bytes(memoryview(self._small)[self._from : self._from + length])
        self._from += length
        if self._from == self._to:
            self._from = self._to = 0
        return data

    async def _much(self, length: int) -> bytearray:
        have = self._small[self._from : self._to]
        self._from = self._to = 0
        self._filled, self._wanted = len(have), length
        have.extend(bytes(min(length, FIRST_BYTES) - len(have)))
        self._large = have
        try:
            while self._filled < length:
                await self._more()
        finally:
            self._large = None
        return have

    async def _more(self) -> None:
        """Wait until something has come."""
        if self._lost:
            raise EOFError("the other side closed the connection")
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # --- called by the transport -------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._accepted(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        large = self._large
        if large is None:
            return memoryview(self._small)[self._to :]
        if self._filled == len(large):  # so much has come: it may be believed for as much again
            large.extend(bytes(min(self._wanted - len(large), len(large))))
        return memoryview(large)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self.heard = self._loop.time()
        if self._large is not None:
            self._filled += nbytes
            full = self._filled == self._wanted
            if not full:
                return  # nobody need wake up for a part of it
        else:
            self._to += nbytes
            full = self._to == SMALL_BYTES
        if full:
            # No room, until somebody reads: a transport must not be given an empty buffer.
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._lost = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._wake()
        if not self._closed.done():
            self._closed.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            if self._lost:
                self._waiter.set_exception(EOFError("the other side closed the connection"))
            else:
                self._waiter.set_result(None)

    # --- writing -----------------------------------------------------------------------------------------

    def write(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send *parts*, one after the other; what does not fit into the socket goes when it does."""
        together: list[bytes | bytearray | memoryview] = []
        for part in parts:
            if len(part) < ALONE_BYTES:
                together.append(part)
                continue
            if together:
                self.transport.write(b"".join(together))
                together = []
            self.transport.write(part)
        if together:
            self.transport.write(b"".join(together))

    @property
    def sock(self) -> Any:
        return self.transport.get_extra_info("socket")

    def close(self) -> None:
        """Hang up once everything is written."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Hang up now."""
        if self.transport is not None:
            self.transport.abort()

    async def wait_closed(self) -> None:
        await self._closed
