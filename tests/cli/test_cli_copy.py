"""``multitask copy`` on real folders: what it copies, refuses, reports and says."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from copying import trees

from cli import shell


@pytest.fixture
def src(tmp_path: Path) -> Iterator[Path]:
    yield trees.make(tmp_path / "src")
    trees.remove(tmp_path)


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_the_copy_equals_the_original(src: Path, tmp_path: Path, kind: str) -> None:
    dst = tmp_path / "new" / "dst"
    done = shell.run("copy", src, dst, "--kind", kind)
    assert done.code == 0, done.err
    assert trees.look(dst) == trees.look(src)
    assert done.out == "", "stdout is for data"
    lines = done.err.splitlines()
    assert lines[-1] == f"next: diff -r --no-dereference {src} {dst}"
    assert f" = {trees.count(src)} entries found" in lines[1]


def test_the_next_command_agrees(src: Path, tmp_path: Path) -> None:
    done = shell.run("copy", src, tmp_path / "dst")
    command = done.err.splitlines()[-1].removeprefix("next: ")
    assert subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout == b""


def test_special_files_are_named_and_not_read(src: Path, tmp_path: Path) -> None:
    os.mkfifo(src / "a" / "pipe")
    done = shell.run("copy", src, tmp_path / "dst")
    assert done.code == 0
    assert "    a/pipe: a fifo: reading it would wait for a writer" in done.err.splitlines()
    assert not (tmp_path / "dst" / "a" / "pipe").exists()


def test_one_bad_file_is_reported_and_the_rest_copied(src: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    (dst / "a" / "file7").mkdir(parents=True)  # a folder is in the way
    done = shell.run("copy", "--merge", src, dst)
    assert done.code == 1
    lines = done.err.splitlines()
    assert lines[-3] == "  1 entry FAILED:"
    assert lines[-2] == "    a/file7: Is a directory"
    assert lines[-1] == f"next: multitask copy --merge {src} {dst}"
    missing = trees.look(src).keys() - trees.look(dst).keys()
    assert not missing
    (dst / "a" / "file7").rmdir()
    again = shell.run(*lines[-1].removeprefix("next: multitask ").split())
    assert again.code == 0
    assert trees.look(dst) == trees.look(src)


def test_every_entry_is_accounted_for(src: Path, tmp_path: Path) -> None:
    os.mkfifo(src / "pipe")
    (tmp_path / "dst" / "a" / "file9").mkdir(parents=True)
    shell.run("copy", src / "a", tmp_path / "dst" / "a", "--merge")
    done = shell.run("copy", src, tmp_path / "dst", "--merge", "--json")
    summary = done.event("summary")
    names = ("files", "links", "folders", "kept", "skipped", "failed", "left")
    assert sum(summary[name] for name in names) == summary["found"] == trees.count(src)
    assert (summary["skipped"], summary["failed"], summary["left"]) == (1, 1, 0)
    assert summary["kept"] > 300
    assert done.event("skipped")["path"] == "pipe"
    assert done.event("failed")["path"] == "a/file9"
    assert summary["failures"] == ["a/file9"]


def test_json_keeps_the_bytes_of_names_that_are_no_text(src: Path, tmp_path: Path) -> None:
    os.mkfifo(os.fsencode(src) + b"/pipe-\xff\n")
    done = shell.run("copy", src, tmp_path / "dst", "--json")
    assert done.out.isascii()
    assert os.fsencode(done.event("skipped")["path"]) == b"pipe-\xff\n"
    assert {event["type"] for event in done.events} - {"progress"} == {"start", "skipped", "summary"}
    assert done.err == ""


def test_odd_names_are_shown_without_harm(src: Path, tmp_path: Path) -> None:
    os.mkfifo(os.fsencode(src) + b"/\x1b[31mred\xff")
    done = shell.run("copy", src, tmp_path / "dst")
    assert "    \\x1b[31mred\\xff: a fifo" in done.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["missing", "dst"], "No such file"),
        (["src", "src/a/new"], "lies inside it"),
        (["src", "link/new"], "lies inside it"),
        (["src", "./src/"], "is the same folder"),
        (["src", "full"], "is not empty"),
        (["src/secret", "dst"], "is not a folder"),
        (["src"], "required: DST"),
        (["src", "dst", "--jobs", "0"], "at least 1"),
        (["src", "dst", "--kind", "cluster"], "invalid choice"),
    ],
)
def test_a_refusal_writes_nothing_and_says_what_to_do(src: Path, tmp_path: Path, words: list[str], why: str) -> None:
    (tmp_path / "link").symlink_to("src/a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    before = trees.look(tmp_path)
    done = shell.run("copy", *words, cwd=tmp_path)
    assert done.code == 2
    assert why in done.err
    assert done.err.splitlines()[-1].startswith("  fix: ")
    assert trees.look(tmp_path) == before


def test_a_second_run_keeps_what_is_there(src: Path, tmp_path: Path) -> None:
    shell.run("copy", src, tmp_path / "dst")
    done = shell.run("copy", "--merge", src, tmp_path / "dst")
    assert done.code == 0
    assert "  0 files (0 B), 0 links," in done.err
    assert "already there, with the same size and time" in done.err
    assert trees.look(tmp_path / "dst") == trees.look(src)


def test_a_full_disk_stops_cleanly_and_can_be_gone_on_with(src: Path, tmp_path: Path) -> None:
    (src / "large").write_bytes(os.urandom(3 << 20))
    dst = tmp_path / "small disk"
    dst.mkdir()
    mounted = os.geteuid() == 0 and mount(dst, "size=2m")
    if not mounted:
        pytest.skip("may not mount a small file system here")
    try:
        done = shell.run("copy", src, dst)
        assert done.code == 1
        assert "stopped: the disk of the destination takes no more (No space left on device)" in done.err
        assert trees.temporary(dst) == []
        original = trees.look(src)
        for path, facts in trees.look(dst).items():
            assert (path in original) and (facts[3] in (None, original[path][3])), f"{path} is half-written"
        assert mount(dst, "remount,size=64m")
        again = shell.run("copy", "--merge", src, dst)
        assert again.code == 0, again.err
        assert trees.look(dst) == original
    finally:
        subprocess.run(["umount", str(dst)], check=True)


def mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


@pytest.fixture
def as_nobody() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder that another user may write to, and the options to run as that user."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    # The Python of the tests may lie where others may not look; one of the system does as well.
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if "-packages" in path or "src" in path),
    }
    user = {"user": trees.NOBODY, "group": trees.NOBODY, "extra_groups": [], "cwd": Path("/"), "env": env}
    for python in (sys.executable, "/usr/bin/python3"):
        if can_run(python, user):
            break
    else:
        pytest.skip("another user may not run this Python")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o777)
    yield folder, {**user, "python": python}
    trees.remove(folder)


def can_run(python: str, user: dict[str, Any]) -> bool:
    version = f"import sys, multitask.copying.run; assert sys.version_info[:2] == {sys.version_info[:2]}"
    try:
        return subprocess.run([python, "-c", version], stderr=subprocess.DEVNULL, **user).returncode == 0
    except OSError:
        return False


def test_unreadable_entries_are_reported_and_the_rest_copied(as_nobody: tuple[Path, dict[str, Any]]) -> None:
    folder, user = as_nobody
    src, dst = trees.make(folder / "src"), folder / "dst"
    (src / "a" / "b" / "binary").chmod(0o000)
    (src / "empty" / "x").write_text("x")
    (src / "empty").chmod(0o000)
    trees.give_away(src)
    done = shell.run("copy", src, dst, **user)
    assert done.code == 1
    lines = done.err.splitlines()
    assert lines[-4] == "  2 entries FAILED:"
    assert sorted(lines[-3:-1]) == ["    a/b/binary: Permission denied", "    empty: Permission denied"]
    copied, original = trees.look(dst), trees.look(src)
    assert original.keys() - copied.keys() == {"a/b/binary", "empty", "empty/x"}
    assert all(copied[path] == original[path] for path in copied)


def test_read_only_folders_are_filled_and_filled_again(as_nobody: tuple[Path, dict[str, Any]]) -> None:
    folder, user = as_nobody
    src, dst = trees.make(folder / "src"), folder / "dst"
    trees.give_away(src)
    assert shell.run("copy", src, dst, **user).code == 0
    assert trees.look(dst) == trees.look(src)
    (src / "closed" / "inside").write_text("changed since")
    done = shell.run("copy", "--merge", src, dst, **user)
    assert done.code == 0, done.err
    assert trees.look(dst) == trees.look(src)


def test_a_destination_that_may_not_be_made_is_refused(as_nobody: tuple[Path, dict[str, Any]]) -> None:
    folder, user = as_nobody
    (folder / "src").mkdir()
    (folder / "mine").mkdir(0o755)
    done = shell.run("copy", folder / "src", folder / "mine" / "dst", **user)
    assert done.code == 2
    assert "cannot make" in done.err and "Permission denied" in done.err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_the_copy_goes_on_when_nobody_reads_its_events(src: Path, tmp_path: Path, unbuffered: str) -> None:
    script = f"set -o pipefail; {' '.join(shell.COMMAND)} copy --json {src} {tmp_path / 'dst'} | true"
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=shell.HANG_SECONDS, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert trees.look(tmp_path / "dst") == trees.look(src)
