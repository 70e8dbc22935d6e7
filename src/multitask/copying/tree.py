"""``copytree``: shutil's function on the pool. Same names, same meaning, and every worker at work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from typing import TypeVar

from multitask.copying.attributes import Keep
from multitask.copying.report import CopyReport, Progress
from multitask.copying.run import Copy
from multitask.copying.walk import Problem
from multitask.errors import MultitaskError

_Target = TypeVar("_Target", str, os.PathLike[str])


def copytree(
    src: str | os.PathLike[str],
    dst: _Target,
    symlinks: bool = False,
    ignore: Callable[[str, list[str]], Iterable[str]] | None = None,
    copy_function: Callable[[str, str], object] = shutil.copy2,
    ignore_dangling_symlinks: bool = False,
    dirs_exist_ok: bool = False,
    *,
    jobs: int | None = None,
    kind: str | None = None,
    owner: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> _Target:
    """Copy the folder *src* to *dst* and return *dst*, as ``shutil.copytree`` does.

    Raises ``shutil.Error`` at the end with a list of (source, destination, reason) of what could not be copied;
    everything else is there. *jobs* and *kind* choose the workers: processes (a small folder is copied without any),
    or threads when *copy_function* is your own, so that it may share memory with the caller. *owner* keeps owners
    (as root). *on_progress* gets a ``Progress`` about ten times a second.

    Other than shutil's: each file is written under a temporary name and renamed, a link in *dst* is replaced and
    not written through, devices are never read, and a link that leads back into a folder above it is an error.
    """
    source, target = os.fsdecode(src), os.fsdecode(dst)
    _check(source, target, dirs_exist_ok)
    own = copy_function is not shutil.copy2
    copy = Copy(
        source,
        target,
        jobs=jobs,
        kind=kind or ("thread" if own else None),
        follow=not symlinks,
        keep=Keep(owner=owner),
        ignore=None if ignore is None else _as_set(ignore),
        ignore_dangling=ignore_dangling_symlinks,
        walk_first=_inside(target, source),
        on_progress=on_progress,
        copy_function=copy_function if own else None,
    )
    _raise_what_failed(copy.run())
    return dst


def _check(source: str, target: str, dirs_exist_ok: bool) -> None:
    """Raise what shutil raises before it begins."""
    if not os.path.isdir(source):
        os.scandir(source).close()
    if not dirs_exist_ok and os.path.lexists(target):
        os.mkdir(target)


def _raise_what_failed(report: CopyReport) -> None:
    if report.interrupted:
        raise KeyboardInterrupt
    if report.problems:
        raise shutil.Error([_error(report.source, report.target, problem) for problem in report.problems])
    if report.stopped:
        raise MultitaskError(f"the copy of {report.source} stopped", why=report.stopped)


def _as_set(ignore: Callable[[str, list[str]], Iterable[str]]) -> Callable[[str, list[str]], set[str]]:
    return lambda folder, names: set(ignore(folder, names))


def _inside(path: str, folder: str) -> bool:
    real, top = os.path.realpath(path), os.path.realpath(folder)
    return real == top or real.startswith(os.path.join(top, ""))


def _error(source: str, target: str, problem: Problem) -> tuple[str, str, str]:
    path = os.path.join(source, problem.path) if problem.path else source
    there = os.path.join(target, problem.path) if problem.path else target
    if problem.errno is not None:
        return path, there, f"[Errno {problem.errno}] {problem.why}: {path!r}"
    if problem.why.startswith("a fifo"):
        return path, there, f"`{path}` is a named pipe"
    return path, there, problem.why
