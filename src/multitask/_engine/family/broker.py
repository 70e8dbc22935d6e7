"""The broker: the thread in the family's root that keeps what was lent and gives it to whoever shows a ticket.

Owner of the socket and the lines: the broker's thread. The entries have a lock of their own: the root's own threads
lend and borrow without the socket. The protocol stands in README.md beside this.
"""

from __future__ import annotations

import _thread
import errno
import os
import select
import socket
import struct
import sys

from multitask._engine.family.entries import Entries, Full
from multitask._engine.family.messages import (
    ANSWER,
    BORROW,
    DROP,
    FORGO,
    FULL,
    GONE,
    HELLO,
    HOLD,
    LEND,
    LOOK_IN,
    MOST_BYTES,
    NUMBER,
    OK,
    REFUSED,
    RELEASE,
    SECRET_BYTES,
    Address,
)
from multitask._engine.workers import forking
from multitask._engine.workers.messages import receive

_PEER = struct.Struct("=iii")  # pid, uid, gid: unix(7), SO_PEERCRED


def peer_of(peer: socket.socket) -> tuple[int, int]:
    """(pid, user) at the other end of a connected socket, as they were when the connection was made."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, user, _ = _PEER.unpack(credentials)
    return pid, user


class Broker:
    """Made in the root, once; it can be reached from the start and answers once ``serve`` was called."""

    def __init__(self) -> None:
        self.address = Address(b"\0multitask-" + os.urandom(12).hex().encode(), os.urandom(SECRET_BYTES), os.getpid())
        self.entries = Entries()
        self._serving = False
        self._lines: dict[int, socket.socket] = {}
        self._ending: dict[int, int] = {}  # pid of whoever hung up -> its pidfd, until it is dead
        self._known: set[int] = set()  # lines that have shown the secret
        with forking.gate:
            self._door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            forking.own(self._door.fileno())
            self._spare = forking.own(os.open(os.devnull, os.O_RDONLY))
        self._door.setblocking(False)
        self._door.bind(self.address.name)
        self._door.listen(4096)
        self._poll = select.poll()
        self._poll.register(self._door, select.POLLIN)

    def serve(self) -> None:
        """Start the thread, unless it runs. Raises RuntimeError when the system refuses one."""
        if not self._serving:
            self._serving = True
            try:
                _thread.start_new_thread(self._run, ())
            except RuntimeError:
                self._serving = False
                raise

    def descriptors(self) -> set[int]:
        """What it needs for itself, as long as the process lives."""
        return {self._door.fileno(), self._spare, *self._lines, *self._ending.values()}

    def abandon(self) -> None:
        """In a forked child: the descriptors are closed already, the thread is not here."""
        self._door.detach()
        for line in self._lines.values():
            line.detach()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                try:
                    if fd == self._door.fileno():
                        self._accept()
                    elif fd in self._lines:
                        self._hear(fd)
                    else:
                        self._bury(fd)
                except (OSError, struct.error):  # it has gone, or talks nonsense
                    self._hang_up(fd)
                except Exception:
                    sys.excepthook(*sys.exc_info())
                    self._hang_up(fd)

    def _accept(self) -> None:
        try:
            with forking.gate:
                line, _ = self._door.accept()
                fd = forking.own(line.fileno())
        except BlockingIOError:  # whoever knocked has gone
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                return
            self._turn_away()
            return
        self._lines[fd] = line
        self.entries.lines += 1
        if peer_of(line)[1] != os.geteuid():
            _answer(line, REFUSED)
            self._hang_up(fd)
            return
        line.setblocking(False)
        self._poll.register(fd, select.POLLIN)

    def _turn_away(self) -> None:
        """No descriptor is left for a line: spend the spare one on saying so, or the door would ring for ever."""
        with forking.gate:
            forking.disown(self._spare)
            try:
                line, _ = self._door.accept()
                _answer(line, FULL, len(self.entries))
                line.close()
            except OSError:
                pass
            finally:
                self._spare = forking.own(os.open(os.devnull, os.O_RDONLY))

    def _hang_up(self, fd: int) -> None:
        line = self._lines.pop(fd, None)
        if line is None:
            return
        self._known.discard(fd)
        self.entries.lines -= 1
        try:
            self._poll.unregister(fd)
        except KeyError:
            pass
        pid, _ = peer_of(line)
        line.detach()
        forking.disown(fd)
        # The kernel closes the line of a process that ends before it lets go of its locks: look once it is dead.
        if not self._await_death(pid):
            self.entries.look_at_all()

    def _await_death(self, pid: int) -> bool:
        """Whether process *pid* is still there; then its death will be heard."""
        if pid in self._ending:
            return True
        try:
            with forking.gate:
                pidfd = forking.own(os.pidfd_open(pid))
        except (OSError, AttributeError):  # it is dead, or of another namespace of pids
            return False
        self._ending[pid] = pidfd
        self._poll.register(pidfd, select.POLLIN)
        return True

    def _bury(self, pidfd: int) -> None:
        for pid, fd in tuple(self._ending.items()):
            if fd == pidfd:
                del self._ending[pid]
                self._poll.unregister(pidfd)
                forking.disown(pidfd)
        self.entries.look_at_all()

    def _hear(self, fd: int) -> None:
        line = self._lines[fd]
        with forking.gate:
            content, rights = receive(line, MOST_BYTES, 1)
            for right in rights:
                forking.own(right)
        kind, rest = content[:1], content[1:]
        if not content:
            self._hang_up(fd)
        elif kind == HELLO:
            # Only those who were given a ticket know it.
            if _same(rest, self.address.secret):
                self._known.add(fd)
            else:
                _answer(line, REFUSED)
                self._hang_up(fd)
        elif fd not in self._known:
            self._hang_up(fd)
        elif kind in (LEND, HOLD):
            self._lend(line, rest, rights, kind == HOLD)
            rights = []
        elif kind in (BORROW, LOOK_IN):
            self._give(line, NUMBER.unpack(rest)[0], kind == BORROW)
        elif kind == RELEASE:
            self.entries.release(rest)
        elif kind in (FORGO, DROP):
            wish = self.entries.forgo if kind == FORGO else self.entries.drop
            wish(NUMBER.unpack(rest)[0])
        for right in rights:
            forking.disown(right)

    def _lend(self, line: socket.socket, key: bytes, rights: list[int], held: bool) -> None:
        if not rights:  # the kernel had no number left to put it under
            self.entries.look_at_all()
            _answer(line, FULL, len(self.entries))
            return
        try:
            number = self.entries.add(rights[0], key, held)
        except Full:
            _answer(line, FULL, len(self.entries))
        else:
            _answer(line, OK, number)

    def _give(self, line: socket.socket, number: int, counted: bool) -> None:
        try:
            fd = self.entries.take(number, counted)
        except OSError:
            _answer(line, FULL, len(self.entries))
            return
        if fd is None:
            _answer(line, GONE)
            return
        try:
            socket.send_fds(line, [ANSWER.pack(OK, number)], [fd])
        finally:
            forking.disown(fd)


def _answer(line: socket.socket, state: int, number: int = 0) -> None:
    line.send(ANSWER.pack(state, number), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)


def _same(shown: bytes, secret: bytes) -> bool:
    from hmac import compare_digest

    return compare_digest(shown, secret)
