"""What a worker does with one batch: every file under a temporary name first, then renamed.

Safe to do twice: a batch whose worker was killed is simply done again. A file stands under its final name only
when its content, mode and times are complete, so a killed copy leaves temporary names and nothing half-written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from multitask.copying import content, folders
from multitask.copying.attributes import Keep, keep_attributes, keep_link_attributes
from multitask.copying.plan import Batch, Part, join
from multitask.copying.walk import FAILED, SKIPPED, Problem, kind_of

TEMPORARY = ".multitask-"
CHANGED_TRIES = 3

# O_NONBLOCK: a file that has become a fifo since the walk must not make the worker wait for a writer.
READ_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | folders.NO_FOLLOW

# Runs that were told to stop, for workers that are threads: those cannot be killed.
_stopped: set[str] = set()


class Orders(NamedTuple):
    """What holds for the whole copy.

    ``token`` is part of its temporary names; ``resume`` passes over files that are there with the same size and time.
    """

    source: str
    target: str
    token: str
    follow: bool = False
    resume: bool = False
    keep: Keep = Keep()
    copy_function: Callable[[str, str], object] | None = None


class Outcome(NamedTuple):
    """What became of a batch; what is in none of the counts was not tried."""

    files: int
    links: int
    kept: int
    bytes: int
    problems: tuple[Problem, ...]
    full: str | None = None  # why the destination takes nothing more


class Stopped(Exception):
    """The run was told to stop while this batch was at work."""


class Changed(Exception):
    """The file did not hold still while it was copied."""


class Special(Exception):
    """What was a file when it was found is none now."""


def stop(token: str) -> None:
    """Make workers in this process leave their batches at the next entry or block."""
    _stopped.add(token)


def forget(token: str) -> None:
    """The run is over, nobody asks any more."""
    _stopped.discard(token)


def temporary_name(token: str, number: int) -> str:
    """The one name under which batch *number* writes; short, so that it fits where the longest names do."""
    return f"{TEMPORARY}{token}-{number}"


def copy_batch(orders: Orders, batch: Batch) -> Outcome:
    """Copy every entry of *batch*; an entry that fails is reported and the next one follows."""
    work = _Work(orders, batch)
    source = folders.open_root(orders.source)
    try:
        target = folders.open_root(orders.target)
        try:
            for part in batch.parts:
                work.part(source, target, part)
        except Stopped:
            pass
        finally:
            os.close(target)
    finally:
        os.close(source)
    return work.outcome()


class _Work:
    """One batch being done."""

    def __init__(self, orders: Orders, batch: Batch) -> None:
        self._orders = orders
        self._temporary = temporary_name(orders.token, batch.number)
        self._files = self._links = self._kept = self._bytes = 0
        self._problems: list[Problem] = []
        self._full: str | None = None

    def outcome(self) -> Outcome:
        return Outcome(self._files, self._links, self._kept, self._bytes, tuple(self._problems), self._full)

    def part(self, source: int, target: int, part: Part) -> None:
        self._check_stopped()
        names = (*part.files, *part.links)
        try:
            here = folders.open_source(source, part.folder)
        except OSError as error:
            self._all_failed(part, names, error)
            return
        try:
            there = folders.open_target(target, part.folder, make=True)
        except OSError as error:
            os.close(here)
            self._all_failed(part, names, error)
            return
        try:
            for name in part.files:
                self._entry(self._file, here, there, part.folder, name)
            for name in part.links:
                self._entry(self._link, here, there, part.folder, name)
        finally:
            os.close(here)
            os.close(there)

    def _entry(self, do: Callable[[int, int, str, str], None], here: int, there: int, folder: str, name: str) -> None:
        self._check_stopped()
        try:
            do(here, there, folder, name)
        except OSError as error:
            self._failed(join(folder, name), error)
        except Special as special:
            self._problems.append(Problem(join(folder, name), SKIPPED, str(special)))
        except Changed as changed:
            self._problems.append(Problem(join(folder, name), FAILED, str(changed)))

    def _file(self, here: int, there: int, folder: str, name: str) -> None:
        if self._orders.copy_function is not None:
            self._by_function(self._orders.copy_function, folder, name)
            return
        flags = READ_FLAGS if self._orders.follow else READ_FLAGS | folders.NO_FOLLOW
        try:
            source = os.open(name, flags, dir_fd=here)
        except OSError as error:
            if error.errno == errno.ELOOP and not self._orders.follow:
                self._link(here, there, folder, name)  # replaced by a link since it was found
                return
            raise
        try:
            self._from_open(source, there, name)
        finally:
            os.close(source)

    def _from_open(self, source: int, there: int, name: str) -> None:
        for _ in range(CHANGED_TRIES):
            before = os.fstat(source)
            if not stat.S_ISREG(before.st_mode):
                raise Special(kind_of(before.st_mode))
            if self._orders.resume and _is_there(there, name, before):
                self._kept += 1
                return
            copied = self._write(source, there, name, before)
            if copied is not None:
                self._files += 1
                self._bytes += copied
                return
            os.lseek(source, 0, os.SEEK_SET)
        raise Changed(f"it changed while it was copied, {CHANGED_TRIES} times in a row")

    def _write(self, source: int, there: int, name: str, before: os.stat_result) -> int | None:
        """Copy under the temporary name and rename; None when the source changed meanwhile."""
        target = _create(there, self._temporary)
        try:
            try:
                copied = content.copy(source, target, before, self._check_stopped)
                if _moved_on(before, os.fstat(source), copied):
                    os.unlink(self._temporary, dir_fd=there)
                    return None
                keep_attributes(source, target, before, self._orders.keep)
            finally:
                os.close(target)
            os.rename(self._temporary, name, src_dir_fd=there, dst_dir_fd=there)
        except BaseException:
            _discard(there, self._temporary)
            raise
        return copied

    def _link(self, here: int, there: int, folder: str, name: str) -> None:
        leads_to = os.readlink(name, dir_fd=here)
        if self._orders.resume and _same_link(there, name, leads_to):
            self._kept += 1
            return
        try:
            _discard(there, self._temporary)
            os.symlink(leads_to, self._temporary, dir_fd=there)
            facts = os.stat(name, dir_fd=here, follow_symlinks=False)
            keep_link_attributes(self._temporary, there, facts, self._orders.keep)
            os.rename(self._temporary, name, src_dir_fd=there, dst_dir_fd=there)
        except BaseException:
            _discard(there, self._temporary)
            raise
        self._links += 1

    def _by_function(self, function: Callable[[str, str], object], folder: str, name: str) -> None:
        path = join(folder, name)
        try:
            function(os.path.join(self._orders.source, path), os.path.join(self._orders.target, path))
        except OSError:
            raise
        except Exception as error:
            self._problems.append(Problem(path, FAILED, str(error) or type(error).__name__))
            return
        self._files += 1

    def _check_stopped(self) -> None:
        if self._full or self._orders.token in _stopped:
            raise Stopped

    def _all_failed(self, part: Part, names: tuple[str, ...], error: OSError) -> None:
        for name in names:
            self._failed(join(part.folder, name), error)

    def _failed(self, path: str, error: OSError) -> None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._full = error.strerror
        self._problems.append(Problem(path, FAILED, error.strerror or str(error), error.errno))


def _create(folder: int, name: str) -> int:
    try:
        return os.open(name, WRITE_FLAGS, 0o600, dir_fd=folder)
    except FileExistsError:
        # Ours: a worker was killed over this batch. Nobody else makes this name.
        os.unlink(name, dir_fd=folder)
        return os.open(name, WRITE_FLAGS, 0o600, dir_fd=folder)


def _discard(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass


def _is_there(folder: int, name: str, source: os.stat_result) -> bool:
    """Whether the destination has this file already: same size and time, as only a complete one has."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == source.st_size and found.st_mtime_ns == source.st_mtime_ns


def _same_link(folder: int, name: str, leads_to: str) -> bool:
    try:
        return os.readlink(name, dir_fd=folder) == leads_to
    except OSError:
        return False


def _moved_on(before: os.stat_result, after: os.stat_result, copied: int) -> bool:
    # Some file systems (proc, sys) tell a size of 0 or of a page for what has more or less content: no change there.
    if before.st_mtime_ns != after.st_mtime_ns or before.st_size != after.st_size:
        return True
    return copied != before.st_size and before.st_blocks > 0
