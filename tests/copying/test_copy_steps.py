"""What a worker does with a batch: content, attributes, and nothing half-written under a final name."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from copying import trees
from multitask.copying import content, folders, steps
from multitask.copying.plan import Batch, Part, Plan
from multitask.copying.steps import Orders, copy_batch, temporary_name
from multitask.copying.walk import FAILED, SKIPPED, Problem, Walk


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A source and a destination, both empty."""
    (tmp_path / "src").mkdir()
    (tmp_path / "dst").mkdir()
    return tmp_path / "src", tmp_path / "dst"


def orders(two: tuple[Path, Path], **changes: object) -> Orders:
    return Orders(str(two[0]), str(two[1]), "token")._replace(**changes)


def one(*files: str, links: tuple[str, ...] = (), folder: str = "") -> Batch:
    return Batch(1, (Part(folder, files, links),), 0)


def test_a_batch_gives_every_file_its_content_mode_and_times(two: tuple[Path, Path]) -> None:
    trees.make(two[0])
    plan = Plan(batch_entries=7)
    problems: list[Problem] = []
    for _ in Walk(str(two[0]), plan, problems.append):
        pass
    outcomes = []
    while batch := plan.take():
        outcomes.append(copy_batch(orders(two), batch))
    assert not problems and not any(outcome.problems for outcome in outcomes)
    original, copied = trees.look(two[0]), trees.look(two[1])
    no_folders = {path: facts for path, facts in original.items() if facts[0] != stat.S_IFDIR}
    assert {path: facts for path, facts in copied.items() if facts[0] != stat.S_IFDIR} == no_folders
    assert sum(outcome.files + outcome.links for outcome in outcomes) == len(no_folders)
    assert original.keys() == copied.keys()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, content.SMALL_BYTES, content.SMALL_BYTES + 1, 3_000_001])
@pytest.mark.parametrize("way", ["kernel", "sendfile", "by hand"])
def test_content_arrives_whole(two: tuple[Path, Path], size: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "kernel":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    if way == "by hand":
        monkeypatch.delattr(os, "sendfile", raising=False)
    monkeypatch.setattr(content, "BLOCK_BYTES", 1 << 20)
    (two[0] / "file").write_bytes(os.urandom(size))
    assert copy_batch(orders(two), one("file")) == (1, 0, 0, size, (), None)
    assert (two[1] / "file").read_bytes() == (two[0] / "file").read_bytes()


@pytest.mark.parametrize("refusal", [errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
def test_where_the_kernel_cannot_copy_it_is_done_by_hand(
    two: tuple[Path, Path], refusal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    monkeypatch.setattr(os, "sendfile", refuse, raising=False)
    (two[0] / "file").write_bytes(os.urandom(2_000_000))
    assert copy_batch(orders(two), one("file")).files == 1
    assert (two[1] / "file").read_bytes() == (two[0] / "file").read_bytes()


def test_a_disk_error_in_the_kernel_is_no_reason_to_go_on(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "copy_file_range", fail)
    (two[0] / "file").write_bytes(os.urandom(2_000_000))
    (problem,) = copy_batch(orders(two), one("file")).problems
    assert (problem.errno, os.listdir(two[1])) == (errno.EIO, [])


def test_holes_stay_holes(two: tuple[Path, Path]) -> None:
    with open(two[0] / "holes", "wb") as file:
        file.seek(40 << 20)
        file.write(b"data")
        file.truncate(90 << 20)
    copy_batch(orders(two), one("holes"))
    copied = os.stat(two[1] / "holes")
    assert copied.st_size == 90 << 20
    if os.stat(two[0] / "holes").st_blocks < 1000:  # this file system has holes
        assert copied.st_blocks < 1000
    assert (two[1] / "holes").read_bytes() == (two[0] / "holes").read_bytes()


def test_a_file_that_the_kernel_calls_empty_is_read_to_its_end(two: tuple[Path, Path]) -> None:
    if not os.path.exists("/proc/cpuinfo"):
        pytest.skip("needs /proc")
    copy_batch(Orders("/proc", str(two[1]), "token"), one("filesystems"))
    assert (two[1] / "filesystems").read_bytes() == Path("/proc/filesystems").read_bytes()


def test_what_fails_is_reported_and_the_rest_copied(two: tuple[Path, Path]) -> None:
    (two[0] / "good").write_text("good")
    outcome = copy_batch(orders(two), one("gone", "good", links=("gone too",)))
    assert [(problem.path, problem.errno) for problem in outcome.problems] == [
        ("gone", errno.ENOENT),
        ("gone too", errno.ENOENT),
    ]
    assert (outcome.files, os.listdir(two[1])) == (1, ["good"])


def test_nothing_special_is_opened_for_reading(two: tuple[Path, Path]) -> None:
    os.mkfifo(two[0] / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(two[0] / "socket"))
        (two[0] / "folder").mkdir()
        outcome = copy_batch(orders(two), one("fifo", "socket", "folder"))
    assert outcome.files == 0 and len(outcome.problems) == 3
    assert outcome.problems[0].what == SKIPPED
    assert os.listdir(two[1]) == []


def test_a_file_that_became_a_link_is_copied_as_a_link(two: tuple[Path, Path]) -> None:
    (two[0] / "file").symlink_to("/etc/passwd")
    assert copy_batch(orders(two), one("file")).links == 1
    assert os.readlink(two[1] / "file") == "/etc/passwd"


class Interruption(BaseException):
    """Stands for a death at a certain step."""


@pytest.mark.parametrize("step", ["write", "fchmod", "utime", "rename"])
def test_a_death_at_any_step_leaves_no_half_written_file(
    two: tuple[Path, Path], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: object, **kwargs: object) -> int:
        raise Interruption

    def nothing(*args: object, **kwargs: object) -> None:
        pass

    (two[0] / "file").write_text("new content")
    (two[1] / "file").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, die)
        patch.setattr(os, "unlink", nothing)  # the dead remove nothing
        with pytest.raises(Interruption):
            copy_batch(orders(two), one("file"))
    assert (two[1] / "file").read_text() == "old"
    assert trees.temporary(two[1]) == [temporary_name("token", 1)]
    # The same batch again, in another worker: completes, and uses up what was left.
    assert copy_batch(orders(two), one("file")).files == 1
    assert (two[1] / "file").read_text() == "new content"
    assert trees.temporary(two[1]) == []


@pytest.mark.parametrize("step", ["write", "fchmod", "utime", "rename"])
def test_an_error_at_any_step_removes_the_temporary_file(
    two: tuple[Path, Path], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> int:
        raise OSError(errno.EDOM, "planted")

    (two[0] / "file").write_text("content")
    monkeypatch.setattr(os, step, fail)
    (problem,) = copy_batch(orders(two), one("file")).problems
    assert problem == Problem("file", FAILED, "planted", errno.EDOM)
    assert os.listdir(two[1]) == []


def test_a_file_that_keeps_changing_is_reported_and_left_out(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = change_while_copied(two[0] / "file", 99, monkeypatch)
    (problem,) = copy_batch(orders(two), one("file")).problems
    assert "changed while it was copied" in problem.why
    assert (len(tries), os.listdir(two[1])) == (steps.CHANGED_TRIES, [])


def test_a_file_that_changes_once_is_copied_as_it_is_then(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    change_while_copied(two[0] / "file", 1, monkeypatch)
    assert copy_batch(orders(two), one("file")).files == 1
    assert (two[1] / "file").read_bytes() == (two[0] / "file").read_bytes()


def change_while_copied(path: Path, times: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the file grow whenever its content has just been copied, so many times."""
    path.write_text("begin")
    tries: list[int] = []
    real = content.copy

    def copy(*args: object) -> int:
        done = real(*args)  # type: ignore[arg-type]
        tries.append(done)
        if len(tries) <= times:
            with open(path, "a") as file:
                file.write("more")
        return done

    monkeypatch.setattr(content, "copy", copy)
    return tries


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_batch(two: tuple[Path, Path], number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(number, os.strerror(number))

    for name in ("a", "b", "c"):
        (two[0] / name).write_text(name)
    monkeypatch.setattr(os, "write", full)
    outcome = copy_batch(orders(two), one("a", "b", "c"))
    assert outcome.full == os.strerror(number)
    assert [problem.path for problem in outcome.problems] == ["a"], "the others were not tried"
    assert os.listdir(two[1]) == []


def test_a_stopped_run_leaves_its_batches(two: tuple[Path, Path]) -> None:
    (two[0] / "a").write_text("a")
    steps.stop("token")
    try:
        outcome = copy_batch(orders(two), one("a"))
    finally:
        steps.forget("token")
    assert outcome == (0, 0, 0, 0, (), None)
    assert os.listdir(two[1]) == []


def test_resuming_keeps_what_has_the_same_size_and_time(two: tuple[Path, Path]) -> None:
    for name in ("same", "longer", "newer"):
        (two[0] / name).write_text("content")
    (two[0] / "link").symlink_to("to")
    batch = one("same", "longer", "newer", links=("link",))
    copy_batch(orders(two), batch)
    with open(two[0] / "longer", "a") as file:
        file.write("more")
    os.utime(two[0] / "newer", ns=(1, 1))
    outcome = copy_batch(orders(two, resume=True), batch)
    assert (outcome.kept, outcome.files, outcome.links) == (2, 2, 0)
    assert trees.look(two[1]).keys() == trees.look(two[0]).keys()
    assert (two[1] / "longer").read_text() == "contentmore"


def test_a_preallocated_file_is_not_taken_for_a_complete_one(two: tuple[Path, Path]) -> None:
    (two[0] / "file").write_text("content")
    (two[1] / "file").write_bytes(b"\0" * 7)
    assert copy_batch(orders(two, resume=True), one("file")).files == 1
    assert (two[1] / "file").read_text() == "content"


def planted_link(two: tuple[Path, Path], outside: Path) -> None:
    (two[1] / "folder").symlink_to(outside)


def planted_file_link(two: tuple[Path, Path], outside: Path) -> None:
    (two[1] / "folder").mkdir()
    (two[1] / "folder" / "file").symlink_to(outside / "victim")


@pytest.mark.parametrize("plant", [planted_link, planted_file_link])
def test_a_link_in_the_destination_is_never_written_through(
    two: tuple[Path, Path], tmp_path: Path, plant: Callable[[tuple[Path, Path], Path], None]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    (two[0] / "folder").mkdir()
    (two[0] / "folder" / "file").write_text("new")
    plant(two, outside)
    copy_batch(orders(two), one("file", folder="folder"))
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"victim": "untouched"}


def test_a_path_longer_than_any_system_takes_is_entered_step_by_step(two: tuple[Path, Path]) -> None:
    deep = "/".join(["d" * 200] * 30)
    here = os.open(two[0], folders.FOLDER_FLAGS)
    there = folders.open_target(here, deep, make=True)
    with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=there), "w") as file:
        file.write("deep down")
    os.close(there)
    os.close(here)
    assert copy_batch(orders(two), one("file", folder=deep)).files == 1
    root = folders.open_root(str(two[1]))
    found = folders.open_source(root, deep)
    assert os.listdir(found) == ["file"]
    os.close(found)
    os.close(root)


def test_setuid_of_another_is_not_made_ours(two: tuple[Path, Path]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a file of another owner")
    (two[0] / "tool").write_text("x")
    os.chown(two[0] / "tool", trees.NOBODY, trees.NOBODY)
    (two[0] / "tool").chmod(0o6755)
    copy_batch(orders(two), one("tool"))
    kept = os.stat(two[1] / "tool")
    assert (kept.st_uid, kept.st_gid, stat.S_IMODE(kept.st_mode)) == (trees.NOBODY, trees.NOBODY, 0o6755)
    copy_batch(orders(two, keep=steps.Keep(owner=False)), one("tool"))
    ours = os.stat(two[1] / "tool")
    assert (ours.st_uid, stat.S_IMODE(ours.st_mode)) == (0, 0o755)


def test_extended_attributes_go_along(two: tuple[Path, Path]) -> None:
    (two[0] / "file").write_text("x")
    try:
        os.setxattr(two[0] / "file", "user.colour", b"blue")
    except (OSError, AttributeError):
        pytest.skip("this file system has no extended attributes")
    copy_batch(orders(two), one("file"))
    assert os.getxattr(two[1] / "file", "user.colour") == b"blue"
