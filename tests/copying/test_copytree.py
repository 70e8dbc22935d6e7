"""``multitask.copytree`` beside ``shutil.copytree``: the same results, the same errors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import multitask
from copying import trees

Errors = set[tuple[str, str, str]]


@pytest.fixture
def src(tmp_path: Path) -> Iterator[Path]:
    yield trees.make(tmp_path / "src")
    trees.remove(tmp_path)


def both(src: Path, prepare: Callable[[Path], object] = lambda dst: None, **options: Any) -> list[tuple[Any, Errors]]:
    """What the two functions make of *src*, and the errors they raise (with the destination's name left out)."""
    results = []
    for function in (shutil.copytree, multitask.copytree):
        dst = src.parent / f"by_{function.__module__.partition('.')[0]}"
        prepare(dst)
        errors: Errors = set()
        try:
            function(src, dst, **options)
        except shutil.Error as error:
            errors = {tuple(os.fspath(each).replace(str(dst), "DST") for each in one) for one in error.args[0]}
        results.append((trees.look(dst), errors))
    return results


def without_folder_times(look: dict[str, Any]) -> dict[str, Any]:
    return {path: facts[:2] + facts[3:] for path, facts in look.items()}


def no_relative_links(src: Path) -> None:
    """shutil takes a relative link for dangling when it leads nowhere *from the current folder*."""
    (src / "a" / "up").unlink()
    (src / "a" / "up").symlink_to(src / "empty")


@pytest.mark.parametrize(
    "options",
    [
        {"symlinks": True},
        {"ignore_dangling_symlinks": True},
        {"symlinks": True, "ignore": shutil.ignore_patterns("file*", "c")},
        {},
    ],
    ids=["symlinks", "no dangling", "ignore", "plain"],
)
def test_it_makes_what_shutil_makes(src: Path, options: dict[str, Any]) -> None:
    no_relative_links(src)
    (theirs, their_errors), (ours, our_errors) = both(src, **options)
    assert ours == theirs
    assert {error[:2] for error in our_errors} == {error[:2] for error in their_errors}


def test_files_in_the_way_are_replaced_when_dirs_exist_ok(src: Path) -> None:
    def prepare(dst: Path) -> None:
        (dst / "a" / "b").mkdir(parents=True)
        (dst / "a" / "file6").write_text("old")
        (dst / "extra").write_text("stays")

    no_relative_links(src)
    (theirs, _), (ours, _) = both(src, prepare, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    assert without_folder_times(ours) == without_folder_times(theirs)


def test_a_destination_that_exists_is_an_error(src: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        multitask.copytree(src, tmp_path)


@pytest.mark.parametrize(("name", "error"), [("missing", FileNotFoundError), ("src/secret", NotADirectoryError)])
def test_a_source_that_is_no_folder_is_an_error(src: Path, tmp_path: Path, name: str, error: type[OSError]) -> None:
    with pytest.raises(error):
        multitask.copytree(tmp_path / name, tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


def test_the_destination_is_returned_as_it_was_given(src: Path, tmp_path: Path) -> None:
    for dst in (tmp_path / "one", str(tmp_path / "two")):
        assert multitask.copytree(src, dst, symlinks=True) is dst


def test_a_copy_function_shares_memory_with_the_caller(src: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def function(source: str, target: str) -> None:
        seen.append(os.path.relpath(source, src))
        shutil.copy2(source, target)

    multitask.copytree(src, tmp_path / "dst", symlinks=True, copy_function=function)
    files = [path for path, facts in trees.look(src).items() if facts[3] is not None]
    links = ["dangling", "a/up", "a/absolute"]
    assert sorted(seen) == sorted(set(files) - set(links))


def test_an_error_of_the_copy_function_is_collected(src: Path, tmp_path: Path) -> None:
    def function(source: str, target: str) -> None:
        if source.endswith("secret"):
            raise ValueError("not this one")
        shutil.copy2(source, target)

    with pytest.raises(shutil.Error) as raised:
        multitask.copytree(src, tmp_path / "dst", symlinks=True, copy_function=function)
    assert raised.value.args[0] == [(str(src / "secret"), str(tmp_path / "dst" / "secret"), "not this one")]


def test_a_link_that_leads_back_up_is_an_error_and_no_endless_copy(tmp_path: Path) -> None:
    (tmp_path / "src" / "sub").mkdir(parents=True)
    (tmp_path / "src" / "sub" / "up").symlink_to("..")
    with pytest.raises(shutil.Error, match="leads back"):
        multitask.copytree(tmp_path / "src", tmp_path / "dst")
    assert (tmp_path / "dst" / "sub").is_dir()


def test_a_destination_inside_the_source_does_not_copy_itself(tmp_path: Path) -> None:
    (tmp_path / "src" / "sub").mkdir(parents=True)
    (tmp_path / "src" / "file").write_text("x")
    multitask.copytree(tmp_path / "src", tmp_path / "src" / "sub" / "copy")
    found = [os.path.relpath(folder, tmp_path) for folder, _, _ in os.walk(tmp_path / "src")]
    assert sorted(found) == ["src", "src/sub", "src/sub/copy", "src/sub/copy/sub"]


def test_progress_is_told(src: Path, tmp_path: Path) -> None:
    told: list[object] = []
    multitask.copytree(src, tmp_path / "dst", symlinks=True, kind="inline", on_progress=told.append)
    assert told


stdlib = pytest.importorskip("test.test_shutil", reason="this Python comes without its tests")


class TestStdlib(stdlib.TestCopyTree):  # type: ignore[misc,name-defined]
    """shutil's own tests, with our function in the place of theirs."""

    @pytest.fixture(autouse=True)
    def ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "copytree", multitask.copytree)

    # Plants a Windows error into shutil's copystat, which is not called here.
    test_copytree_winerror = None


del stdlib
