"""Folders by descriptor: opening one below a root without following planted links, however long its path.

A path longer than PATH_MAX cannot be given to the kernel at once, and a path looked up by name follows whatever
link somebody puts there meanwhile. Both end when each step starts from the descriptor of the last (openat(2)).
"""

from __future__ import annotations

import os
import stat

FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
# Well under PATH_MAX (4096 on Linux, 1024 on macOS), in bytes.
LONGEST_STEP = 900


def open_root(path: str) -> int:
    """The descriptor of a root; here links are followed, the user has named it."""
    return os.open(path, FOLDER_FLAGS)


def open_source(root: int, path: str) -> int:
    """The descriptor of the folder *path* of the source, in as few steps as its length allows."""
    return _descend(root, _long_steps(path), 0, make=False)


def open_target(root: int, path: str, *, make: bool = False) -> int:
    """The descriptor of the folder *path* of the destination; refuses a symbolic link at every step.

    With *make*, what is missing is made with mode 0700 and a folder of ours that we may not write is opened up;
    its final mode comes last.
    """
    return _descend(root, path.split("/") if path else ["."], NO_FOLLOW, make=make)


def _descend(root: int, steps: list[str], flags: int, *, make: bool) -> int:
    at = root
    try:
        for step in steps:
            deeper = _enter(at, step, flags, make=make)
            if at != root:
                os.close(at)
            at = deeper
    except BaseException:
        if at != root:
            os.close(at)
        raise
    return at


def _enter(at: int, step: str, flags: int, *, make: bool) -> int:
    try:
        found = os.open(step, FOLDER_FLAGS | flags, dir_fd=at)
    except FileNotFoundError:
        if not make:
            raise
        try:
            os.mkdir(step, 0o700, dir_fd=at)
        except FileExistsError:
            pass  # another worker was faster
        return os.open(step, FOLDER_FLAGS | flags, dir_fd=at)
    except PermissionError:
        if not make:
            raise
        # Ours, but closed to ourselves: a read-only folder of an earlier run.
        os.chmod(step, 0o700, dir_fd=at)
        return os.open(step, FOLDER_FLAGS | flags, dir_fd=at)
    if make and not _is_writable(found):
        os.fchmod(found, stat.S_IMODE(os.fstat(found).st_mode) | 0o700)
    return found


def _is_writable(folder: int) -> bool:
    if os.geteuid() == 0:
        return True
    facts = os.fstat(folder)
    return facts.st_uid != os.geteuid() or facts.st_mode & 0o300 == 0o300


def _long_steps(path: str) -> list[str]:
    if len(path) < LONGEST_STEP // 4:
        return [path or "."]
    steps, step = [], ""
    for name in path.split("/"):
        if step and len(os.fsencode(step)) + len(os.fsencode(name)) >= LONGEST_STEP:
            steps.append(step)
            step = ""
        step = f"{step}/{name}" if step else name
    return [*steps, step]
