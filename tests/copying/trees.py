"""Folders to copy, and what a folder looks like from outside; knows nothing of the code under test."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path

NOBODY = 65534


def make(root: Path) -> Path:
    """A folder with one of everything that has content: also odd names, links, holes, a read-only folder."""
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "empty").mkdir()
    for number in range(300):
        (root / "a" / f"file{number}").write_bytes(b"content %d\n" % number * (number % 7))
    (root / "a" / "b" / "binary").write_bytes(bytes(range(256)) * 2000)
    (root / "a" / "b" / "c" / "script").write_text("#!/bin/sh\n")
    (root / "a" / "b" / "c" / "script").chmod(0o750)
    (root / "secret").write_text("s")
    (root / "secret").chmod(0o400)
    (root / "dangling").symlink_to("nowhere")
    (root / "a" / "up").symlink_to("../empty")
    (root / "a" / "absolute").symlink_to("/etc/hostname")
    (root / "line\nbreak").write_text("n")
    with open(os.fsencode(root) + b"/no-text-\xff\xfe", "wb") as file:
        file.write(b"x")
    (root / ("n" * 255)).write_text("a name as long as it gets")
    with open(root / "holes", "wb") as sparse:
        sparse.seek(3 << 20)
        sparse.write(b"in the middle")
        sparse.truncate(9 << 20)
    (root / "closed").mkdir()
    (root / "closed" / "inside").write_text("in a read-only folder")
    for path, when in ((root / "secret", 1_000_000_000_123_456_789), (root / "a" / "b", 1_100_000_000_000_000_001)):
        os.utime(path, ns=(when, when))
    os.utime(root / "dangling", ns=(7_000_000_007, 7_000_000_007), follow_symlinks=False)
    (root / "closed").chmod(0o555)
    return root


def look(root: Path) -> dict[str, tuple[object, ...]]:
    """path -> (kind, mode, mtime in ns, content), for comparing a copy with its original."""
    found: dict[str, tuple[object, ...]] = {".": _facts(str(root))}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = _facts(path)
    return found


def _facts(path: str) -> tuple[object, ...]:
    facts = os.lstat(path)
    content: object = None
    if stat.S_ISREG(facts.st_mode):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    elif stat.S_ISLNK(facts.st_mode):
        content = os.readlink(path)
    return stat.S_IFMT(facts.st_mode), stat.S_IMODE(facts.st_mode), facts.st_mtime_ns, content


def give_away(root: Path) -> None:
    """Make another user its owner."""
    for folder, folders, files in os.walk(root):
        for name in (".", *folders, *files):
            os.lchown(os.path.join(folder, name), NOBODY, NOBODY)


def count(root: Path) -> int:
    """Everything with a name, the root included."""
    return 1 + sum(len(folders) + len(files) for _, folders, files in os.walk(root))


def temporary(root: Path) -> list[str]:
    """What a copy has left under a temporary name."""
    return [name for _, _, files in os.walk(root) for name in files if name.startswith(".multitask-")]


def remove(root: Path) -> None:
    """Remove it, read-only folders too."""
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o700)
    shutil.rmtree(root)
