"""The descriptors that were lent to this process, by number: who may have them, and when they go.

Owner: the broker of the family's root. Any thread of it calls in; ``lock`` guards the table.
Rule: a descriptor is owned (closed in forked children) from the moment it is here until it is given out or closed.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # no descriptors travel there
    pass

from multitask._engine.family.ownlock import OwnLock
from multitask._engine.workers import forking

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOKED_AT = 8  # entries, with each event
_SHARE = 0.75  # of the limit of open files

ONCE, HELD, KEYED, UNWATCHED = range(4)


class Full(Exception):
    """No descriptor is left for one more entry; the argument says how many there are."""


class Entry:
    """One lent descriptor."""

    __slots__ = ("fd", "key", "kind", "number", "under_way")

    def __init__(self, number: int, fd: int, kind: int, key: bytes) -> None:
        self.number = number
        self.fd = fd
        self.kind = kind
        self.key = key
        self.under_way = 1


class Entries:
    """All of them. ``lines`` counts what else the broker keeps open."""

    def __init__(self) -> None:
        self.lock = OwnLock()
        self.lines = 0
        self._numbers = itertools.count(1)
        self._by_number: dict[int, Entry] = {}
        self._by_key: dict[bytes, Entry] = {}
        self._round: deque[int] = deque()  # numbers of keyed entries, in the order of being looked at
        self._wishes: deque[tuple[Callable[..., None], tuple[object, ...]]] = deque()

    def __len__(self) -> int:
        return len(self._by_number)

    # --- lending and borrowing --------------------------------------------------------------------------------------

    def add(self, fd: int, key: bytes, held: bool = False) -> int:
        """Keep *fd*, which is owned; returns its number. Takes it over also when it raises Full."""
        try:
            with self._locked():
                entry = self._by_key.get(key) if key else None
                if entry is not None:
                    entry.under_way += 1
                    forking.disown(fd)
                    return entry.number
                self._make_room()
                kind = HELD if held else ONCE
                if key:
                    fd, kind = _own_description(fd)
                entry = Entry(next(self._numbers), fd, kind, key)
                self._by_number[entry.number] = entry
                if key:
                    self._by_key[key] = entry
                    self._round.append(entry.number)
                return entry.number
        except BaseException:
            forking.disown(fd)
            raise

    def take(self, number: int, counted: bool = True) -> int | None:
        """A descriptor for one borrower: the caller owns it. None when there is no such entry. Raises OSError.

        *counted*: its handle was under way, and is no more.
        """
        with self._locked():
            entry = self._by_number.get(number)
            if entry is None:
                return None
            if entry.kind == ONCE:
                del self._by_number[number]
                return entry.fd
            if entry.kind == KEYED:
                fd = _open_again(entry.fd)
                _lock_shared(fd)
            else:
                with forking.gate:
                    fd = forking.own(os.dup(entry.fd))
            if counted:
                entry.under_way = max(0, entry.under_way - 1)
            return fd

    # --- what finalizers may ask for --------------------------------------------------------------------------------

    def forgo(self, number: int) -> None:
        """A handle was read whose reader has the thing already."""
        self._wish(self._forgo, number)

    def release(self, key: bytes) -> None:
        """Somebody's last use of *key* has ended: look whether it was the last of all."""
        self._wish(self._release, key)

    def drop(self, number: int) -> None:
        """The lender of a held entry wants it gone."""
        self._wish(self._drop, number)

    def _wish(self, do: Callable[..., None], *args: object) -> None:
        self._wishes.append((do, args))
        while self._wishes and self.lock.try_it():
            try:
                self._grant()
            finally:
                self.lock.release()

    def _grant(self) -> None:
        while True:
            try:
                do, args = self._wishes.popleft()
            except IndexError:
                return
            do(*args)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.lock.held("descriptors are handed out"):
            yield
            self._look(LOOKED_AT)
        if self._wishes:
            # A finalizer found the lock taken, perhaps by the very thread it ran in.
            self._wish(_nothing)

    def _forgo(self, number: int) -> None:
        entry = self._by_number.get(number)
        if entry is None:
            return
        if entry.kind == ONCE:
            self._remove(entry)
        elif entry.kind != HELD:
            entry.under_way = max(0, entry.under_way - 1)
            self._look_at(entry)

    def _release(self, key: bytes) -> None:
        entry = self._by_key.get(key)
        if entry is not None:
            self._look_at(entry)
        self._look(LOOKED_AT)

    def _drop(self, number: int) -> None:
        entry = self._by_number.get(number)
        if entry is not None and entry.kind == HELD:
            self._remove(entry)

    # --- looking whether anybody uses it ----------------------------------------------------------------------------

    def look_at_all(self) -> None:
        """Let go of every entry that nobody uses; a few at a time, so that others get the lock in between."""
        left = len(self._round)
        while left > 0:
            with self._locked():
                self._look(64)
            left -= 64

    def _look(self, most: int) -> None:
        for _ in range(min(most, len(self._round))):
            number = self._round.popleft()
            entry = self._by_number.get(number)
            if entry is not None:
                self._round.append(number)
                self._look_at(entry)

    def _look_at(self, entry: Entry) -> None:
        if entry.kind == KEYED and not entry.under_way and not _in_use(entry.fd):
            self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        del self._by_number[entry.number]
        if entry.key:
            del self._by_key[entry.key]
        forking.disown_soon(entry.fd)

    def _make_room(self) -> None:
        if self.lines + len(self._by_number) < _most():
            return
        self._look(len(self._round))
        if self.lines + len(self._by_number) >= _most():
            raise Full(len(self._by_number))


def _nothing() -> None:
    pass


def _most() -> int:
    """How many descriptors may be kept here; by sysconf, for the module resource takes half a millisecond to load."""
    soft = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else -1
    return int(soft * _SHARE) if soft > 0 else 1 << 30


def _own_description(fd: int) -> tuple[int, int]:
    """A description of our own in place of *fd*, so that our flock is not the lender's."""
    try:
        fresh = _open_again(fd)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise Full(0) from error
        return fd, UNWATCHED  # no /proc: kept as it is, for ever
    forking.disown(fd)
    return fresh, KEYED


def _open_again(fd: int) -> int:
    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    with forking.gate:
        return forking.own(os.open(f"/proc/self/fd/{fd}", mode | os.O_CLOEXEC))


def _lock_shared(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_SH)


def _in_use(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
