"""Walks the source and tells the plan what is there, a slice at a time, so that copying starts at once.

Owner: the thread that drives the copy. It pulls this generator between other things; nothing here waits for workers.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from multitask.copying import folders
from multitask.copying.plan import Folder, Plan, join

SLICE_ENTRIES = 500
FAILED, SKIPPED = "failed", "skipped"

# Gets a folder's path and the names in it, returns the names to leave out (shutil.ignore_patterns and the like).
Ignore = Callable[[str, list[str]], Collection[str]]


class Problem(NamedTuple):
    """An entry that was not copied: ``path`` below the root, ``what`` FAILED or SKIPPED, and why."""

    path: str
    what: str
    why: str
    errno: int | None = None


class Walk:
    """Iterating it does the work; it yields after every few hundred entries.

    ``follow``: links are taken for what they lead to. ``ignore`` leaves names out, as in ``shutil.copytree``.
    """

    def __init__(
        self,
        root: str,
        plan: Plan,
        report: Callable[[Problem], None],
        *,
        follow: bool = False,
        ignore: Ignore | None = None,
        ignore_dangling: bool = False,
    ) -> None:
        self._path, self._plan, self._report = root, plan, report
        self._follow, self._ignore, self._ignore_dangling = follow, ignore, ignore_dangling
        self._since = 0
        # A folder still to be entered, with the identities of the folders above it when links are followed.
        self._stack: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]

    def __iter__(self) -> Iterator[None]:
        root = folders.open_root(self._path)
        try:
            while self._stack:
                path, above = self._stack.pop()
                yield from self._folder(root, path, above)
        finally:
            os.close(root)
        self._plan.close()

    def _folder(self, root: int, path: str, above: tuple[tuple[int, int], ...]) -> Iterator[None]:
        try:
            folder = folders.open_source(root, path)
        except OSError as error:
            self._unreadable(path, error)
            return
        try:
            facts = os.fstat(folder)
            me = (facts.st_dev, facts.st_ino)
            if me in above:
                self._plan.unreadable()
                self._report(Problem(path, FAILED, "this link leads back to a folder it lies in"))
                return
            yield from self._entries(folder, path, facts, (*above, me) if self._follow else ())
        except OSError as error:
            self._unreadable(path, error)
        finally:
            os.close(folder)

    def _entries(
        self, folder: int, path: str, facts: os.stat_result, above: tuple[tuple[int, int], ...]
    ) -> Iterator[None]:
        with os.scandir(folder) as entries:
            times = (facts.st_atime_ns, facts.st_mtime_ns)
            self._plan.enter(Folder(path, facts.st_mode, facts.st_uid, facts.st_gid, *times))
            for entry in self._kept(path, entries):
                self._entry(path, entry, above)
                self._since += 1
                if self._since >= SLICE_ENTRIES:
                    self._since = 0
                    yield
        self._since += 5  # opening a folder costs as much as a few entries

    def _kept(self, path: str, entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        if self._ignore is None:
            return entries
        listed = list(entries)
        full = os.path.join(self._path, path) if path else self._path
        left_out = self._ignore(full, [entry.name for entry in listed])
        return (entry for entry in listed if entry.name not in left_out)

    def _entry(self, path: str, entry: os.DirEntry[str], above: tuple[tuple[int, int], ...]) -> None:
        plan, name = self._plan, entry.name
        try:
            if entry.is_dir(follow_symlinks=self._follow):
                self._stack.append((join(path, name), above))
            elif entry.is_file(follow_symlinks=self._follow):
                plan.file(name, entry.stat(follow_symlinks=self._follow).st_size)
            elif entry.is_symlink():
                self._link(name)
            else:
                plan.other()
                self._report(Problem(join(path, name), SKIPPED, kind_of(entry.stat(follow_symlinks=False).st_mode)))
        except OSError:
            plan.file(name, 0)  # gone or unreadable: the worker that opens it says why

    def _link(self, name: str) -> None:
        if not self._follow:
            self._plan.link(name)
        elif not self._ignore_dangling:
            self._plan.file(name, 0)  # leads nowhere: opening it fails and says so

    def _unreadable(self, path: str, error: OSError) -> None:
        plan = self._plan
        if plan.folders and plan.folders[-1].path == path:
            plan.folders.pop()  # it broke half way: it counts as failed, so it is not finished later
        else:
            plan.unreadable()
        self._report(Problem(path, FAILED, error.strerror or str(error), error.errno))


def kind_of(mode: int) -> str:
    """What a thing is that is not copied, for people."""
    names = {
        stat.S_IFIFO: "a fifo: reading it would wait for a writer",
        stat.S_IFSOCK: "a socket: it has no content",
        stat.S_IFCHR: "a character device: its content is not a file's",
        stat.S_IFBLK: "a block device: its content is not a file's",
    }
    return names.get(stat.S_IFMT(mode), "neither file, folder nor link")
