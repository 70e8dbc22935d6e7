"""The run: batches through real pools, workers that die, disks that fill, folders finished last."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from copying import trees
from multitask.copying import content, meter, steps
from multitask.copying.report import CopyReport, Progress
from multitask.copying.run import Copy

KINDS = ["process", "thread", "inline"]


@pytest.fixture
def src(tmp_path: Path) -> Iterator[Path]:
    yield trees.make(tmp_path / "src")
    trees.remove(tmp_path)


def accounted(report: CopyReport, src: Path) -> bool:
    return report.accounted == report.found.entries == trees.count(src)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_worker_makes_the_same_copy(src: Path, tmp_path: Path, kind: str) -> None:
    report = Copy(str(src), str(tmp_path / "dst"), kind=kind, jobs=3).run()
    assert report.ok and accounted(report, src)
    assert trees.look(tmp_path / "dst") == trees.look(src)


def test_relative_paths_are_taken_from_the_current_folder(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Copy("src", "dst", jobs=1).run().ok
    assert trees.look(tmp_path / "dst") == trees.look(src)


def test_progress_is_told_and_ends_at_the_totals(src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "REFRESH_SECONDS", 0.0)
    told: list[Progress] = []
    report = Copy(str(src), str(tmp_path / "dst"), kind="inline", on_progress=told.append).run()
    assert len(told) > 1
    assert (told[-1].files, told[-1].bytes) == (report.files, report.found.bytes)
    assert told[-1].counted and told[-1].share == 1.0
    assert [now.files for now in told] == sorted(now.files for now in told)


def die_once(source: str, target: str) -> None:
    """Kills its worker at one file, the first time."""
    mark = os.path.join(os.path.dirname(os.path.dirname(source)), "mark")
    if source.endswith("deadly") and not os.path.exists(mark):
        open(mark, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    shutil.copy2(source, target)


def die_always(source: str, target: str) -> None:
    """Kills its worker at one file, each time."""
    if source.endswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    shutil.copy2(source, target)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Thirty files, one of them named deadly."""
    (tmp_path / "flat").mkdir()
    for number in range(29):
        (tmp_path / "flat" / f"file{number}").write_text(str(number))
    (tmp_path / "flat" / "deadly").write_text("x")
    return tmp_path / "flat"


def test_a_batch_whose_worker_was_killed_is_done_again(flat: Path, tmp_path: Path) -> None:
    report = Copy(str(flat), str(tmp_path / "dst"), kind="process", jobs=2, copy_function=die_once).run()
    assert report.ok and accounted(report, flat)
    assert trees.look(tmp_path / "dst") == trees.look(flat)


def test_a_file_that_kills_every_worker_is_reported_and_the_rest_copied(flat: Path, tmp_path: Path) -> None:
    report = Copy(str(flat), str(tmp_path / "dst"), kind="process", jobs=2, copy_function=die_always).run()
    assert [problem.path for problem in report.failures] == ["deadly"]
    assert "the worker died over it 3 times" in report.failures[0].why
    assert (report.files, accounted(report, flat)) == (29, True)


def test_a_full_disk_stops_the_run_and_everything_is_accounted_for(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    real = content.copy

    def fill(*args: object) -> int:
        written.append(1)
        if len(written) > 50:
            raise OSError(28, "No space left on device")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(content, "copy", fill)
    report = Copy(str(src), str(tmp_path / "dst"), kind="inline").run()
    assert report.stopped == "the disk of the destination takes no more (No space left on device)"
    assert report.files == 50 and report.failed and report.left > 200
    assert report.accounted == report.found.entries
    assert trees.temporary(tmp_path / "dst") == []


@pytest.mark.parametrize("kind", ["thread", "inline"])
@pytest.mark.parametrize("after", [1, 40, 250])
def test_an_interruption_keeps_the_accounts_and_removes_temporary_files(
    src: Path, tmp_path: Path, kind: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Copy(str(src), str(tmp_path / "dst"), kind=kind, jobs=1)
    seen = []
    real = content.copy

    def count(*args: object) -> int:
        seen.append(1)
        if len(seen) == after:
            copy.interrupt()
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(content, "copy", count)
    report = copy.run()
    assert report.accounted == report.found.entries
    assert report.interrupted
    assert trees.temporary(tmp_path / "dst") == []


def test_a_worker_process_that_is_interrupted_leaves_no_temporary_file(src: Path, tmp_path: Path) -> None:
    def interrupt(now: Progress) -> None:
        copy.interrupt()

    copy = Copy(str(src), str(tmp_path / "dst"), jobs=2, on_progress=interrupt)
    report = copy.run()
    assert report.accounted == report.found.entries
    assert not (tmp_path / "dst").exists() or trees.temporary(tmp_path / "dst") == []


def test_an_error_of_our_own_fails_its_batch_and_not_the_run(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*args: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(steps._Work, "_link", wrong)
    report = Copy(str(src), str(tmp_path / "dst"), kind="inline").run()
    assert report.failed and accounted(report, src)
    assert ("dangling", "ZeroDivisionError: a bug") in {(problem.path, problem.why) for problem in report.failures}


def test_dotdot_after_a_link_means_what_the_system_takes_it_for(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    monkeypatch.chdir(tmp_path)
    assert Copy("src", "link/../dst", kind="inline").run().ok
    assert not (tmp_path / "dst").exists()
    assert trees.look(tmp_path / "far" / "dst") == trees.look(src)


def test_a_small_folder_starts_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multitask.pool.Pool", None)
    (tmp_path / "src" / "sub").mkdir(parents=True)
    (tmp_path / "src" / "sub" / "file").write_text("x")
    (tmp_path / "src" / "link").symlink_to("sub")
    report = Copy(str(tmp_path / "src"), str(tmp_path / "dst")).run()
    assert report.ok and accounted(report, tmp_path / "src")
    assert trees.look(tmp_path / "dst") == trees.look(tmp_path / "src")


def test_a_large_one_does(src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multitask.pool.Pool", None)
    with pytest.raises(TypeError):
        Copy(str(src), str(tmp_path / "dst")).run()


@pytest.mark.parametrize("after", [1, 5])
def test_a_small_one_can_be_interrupted_too(tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    for number in range(9):
        (tmp_path / "src" / str(number)).write_text("x")
    copy = Copy(str(tmp_path / "src"), str(tmp_path / "dst"))
    seen = []
    real = content.copy

    def count(*args: object) -> int:
        seen.append(1)
        if len(seen) == after:
            copy.interrupt()
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(content, "copy", count)
    report = copy.run()
    assert report.interrupted and report.files == after and report.accounted == report.found.entries == 10
    assert len(os.listdir(tmp_path / "dst")) == after
