"""A member's line to a root: one request at a time, each answered before the next.

Rule: a line whose request did not come to its end (an interrupt, a timeout) is closed, so that no answer is ever
taken for that of another request.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable

from multitask import errors
from multitask._engine.family.broker import peer_of
from multitask._engine.family.messages import (
    ANSWER,
    BORROW,
    FULL,
    GONE,
    HELLO,
    HOLD,
    LEND,
    LOOK_IN,
    NUMBER,
    REFUSED,
    Address,
)
from multitask._engine.family.ownlock import OwnLock
from multitask._engine.workers import forking
from multitask._engine.workers.messages import receive

ANSWER_SECONDS = 20  # for a root that is stopped or very busy
_TIMEVAL = struct.Struct("@ll")


class Line:
    """Usable by any thread. Raises ConnectionError when the root is gone, TimeoutError when it does not answer."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._lock = OwnLock()
        self._socket: socket.socket | None = None
        self._unsent: deque[bytes] = deque()

    def lend(self, fd: int, key: bytes, held: bool) -> int:
        """Have the root keep a copy of *fd*; returns its number."""
        number, _ = self._ask((HOLD if held else LEND) + key, fd)
        return number

    def borrow(self, number: int, counted: bool = True) -> int:
        """A descriptor for what was lent under *number*: close-on-exec, the caller's."""
        _, fd = self._ask((BORROW if counted else LOOK_IN) + NUMBER.pack(number))
        return fd

    def tell(self, message: bytes) -> None:
        """Send what wants no answer. For finalizers: never waits for another thread, never raises."""
        self._unsent.append(message)
        self._flush()

    def open(self) -> None:
        """Connect now, so that the root sees the end of this process."""
        with self._lock.held("its process is being made known"):
            self._connected()
        self._flush()  # a finalizer may have found the lock taken

    def descriptors(self) -> set[int]:
        return set() if self._socket is None else {self._socket.fileno()}

    def abandon(self) -> None:
        """In a forked child: the descriptor is closed already."""
        line, self._socket = self._socket, None  # else __del__ closes it once more, and complains
        if line is not None:
            line.detach()

    def _flush(self) -> None:
        while self._unsent and self._lock.try_it():
            try:
                if self._socket is None:  # never talked to it, or it is gone: it has nothing of ours to look at
                    self._unsent.clear()
                while self._unsent:
                    # What a root that is stopped has no room for is lost: it looks a little later then.
                    self._connected().send(self._unsent.popleft(), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
            except OSError:
                self._close()
            finally:
                self._lock.release()

    def _ask(self, request: bytes, fd: int = -1) -> tuple[int, int]:
        try:
            with self._lock.held("descriptors are handed out"):
                try:
                    state, number, rights = self._exchange_again(request, fd)
                except BaseException:
                    self._close()
                    raise
                if state == REFUSED:
                    self._close()
        finally:
            self._flush()
        if state:
            for right in rights:
                os.close(right)
            raise self._refusal(state, number)
        if request[:1] in (BORROW, LOOK_IN) and not rights:
            raise OSError(errno.EMFILE, "this process has no file descriptor left for what it was lent")
        return number, rights[0] if rights else -1

    def _exchange_again(self, request: bytes, fd: int) -> tuple[int, int, list[int]]:
        known = self._socket is not None
        try:
            return self._exchange(request, fd)
        except ConnectionError:
            self._close()
            if not known:
                raise
        # The root may have hung up for a reason that has passed: it has ended only if a new line says so too.
        return self._exchange(request, fd)

    def _exchange(self, request: bytes, fd: int) -> tuple[int, int, list[int]]:
        line = self._connected()
        try:
            if fd < 0:
                line.send(request, socket.MSG_NOSIGNAL)
            else:
                socket.send_fds(line, [request], [fd], socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            pass  # what it said before it hung up is read below
        except BlockingIOError:
            raise self._silent() from None
        try:
            try:
                answer, rights = receive(line, ANSWER.size, 1)
            except ConnectionResetError:  # it hung up with words of ours unread: its own are behind that error
                answer, rights = receive(line, ANSWER.size, 1)
        except BlockingIOError:
            raise self._silent() from None
        if not answer:
            raise self._gone()
        return *ANSWER.unpack(answer), rights

    def _connected(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        with forking.gate:
            line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            forking.own(line.fileno())
        self._socket = line
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            line.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(ANSWER_SECONDS, 0))
        try:
            line.connect(self.address.name)
            # The name is free once the root has ended: whoever took it must not see the secret or a descriptor.
            if peer_of(line)[1] != os.geteuid():
                raise self._refusal(REFUSED, 0)
            try:
                line.send(HELLO + self.address.secret, socket.MSG_NOSIGNAL)
            except (BrokenPipeError, ConnectionResetError):
                pass  # turned away at the door: it has said why
        except BlockingIOError:
            self._close()
            raise self._silent() from None
        except ConnectionRefusedError:
            self._close()
            raise self._gone() from None
        except BaseException:
            self._close()
            raise
        return line

    def _close(self, disown: Callable[[int], None] = forking.disown_soon) -> None:
        line, self._socket = self._socket, None
        if line is not None:
            disown(line.detach())

    def __del__(self) -> None:
        try:
            self._close()
        except (AttributeError, TypeError):  # the interpreter ends, and modules are empty: the kernel closes it
            pass

    def _gone(self) -> ConnectionError:
        return ConnectionResetError(
            errno.ECONNRESET, f"the process that kept the family's descriptors (pid {self.address.pid}) has ended"
        )

    def _silent(self) -> OSError:
        text = f"process {self.address.pid}, which keeps the family's descriptors, has not answered for"
        return TimeoutError(errno.ETIMEDOUT, f"{text} {ANSWER_SECONDS} s: is it stopped?")

    def _refusal(self, state: int, number: int) -> Exception:
        pid = self.address.pid
        if state == FULL:
            return OSError(errno.EMFILE, out_of_descriptors(pid, number))
        if state == GONE:
            return gone(pid)
        assert state == REFUSED
        return errors.CannotTravel(
            f"process {pid} keeps the descriptor and refuses to give it to this one",
            why=f"the ticket is not genuine, or this process (user {os.geteuid()}) runs as another user",
            fix="lend and borrow as the same user",
        )


def gone(pid: int) -> errors.CannotTravel:
    """What to tell a borrower whose number is not known any more."""
    return errors.CannotTravel(
        "a descriptor that was lent is not there any more",
        why=f"process {pid} has given it out already, or nobody used it any more",
        fix="send a handle for each reader; keep the object until its reader has it",
    )


def out_of_descriptors(pid: int, lent: int) -> str:
    """What to tell a lender whose descriptor could not be kept."""
    return (
        f"process {pid}, which keeps the family's descriptors, has none left: {lent} were lent and are not read yet; "
        "let readers catch up, or raise its limit of open files (ulimit -n)"
    )
