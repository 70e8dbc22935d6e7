"""Where ``copytree`` leaves shutil's on purpose: both are run, and both results are named."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

import multitask

OLD, NEW = shutil.copytree, multitask.copytree


@pytest.fixture
def src(tmp_path: Path) -> Path:
    src = tmp_path / "src"
    src.mkdir()
    (src / "file").write_text("new")
    return src


def in_the_way(dst: Path, how: str) -> Path:
    """A file of an earlier time stands at ``dst/file``; returns another name of it."""
    dst.mkdir()
    other = dst.with_name(f"{dst.name}_other")
    other.write_text("old")
    if how == "link":
        (dst / "file").symlink_to(other)
    else:
        os.link(other, dst / "file")
    return other


@pytest.mark.parametrize("how", ["link", "hard link"])
def test_what_is_in_the_way_is_replaced_and_not_written_through(src: Path, tmp_path: Path, how: str) -> None:
    others = {}
    for function in (OLD, NEW):
        dst = tmp_path / function.__module__
        others[function] = in_the_way(dst, how)
        function(src, dst, dirs_exist_ok=True)
        assert (dst / "file").read_text() == "new"
    assert others[OLD].read_text() == "new"
    assert others[NEW].read_text() == "old"
    assert not (tmp_path / NEW.__module__ / "file").is_symlink()


def test_a_linked_folder_in_the_way_is_an_error(src: Path, tmp_path: Path) -> None:
    (src / "sub").mkdir()
    (src / "sub" / "deep").write_text("new")
    outside, dst = tmp_path / "outside", tmp_path / "dst"
    outside.mkdir()
    dst.mkdir()
    (dst / "sub").symlink_to(outside)
    with pytest.raises(shutil.Error, match="sub"):
        NEW(src, dst, dirs_exist_ok=True)
    assert os.listdir(outside) == []
    OLD(src, dst, dirs_exist_ok=True)
    assert os.listdir(outside) == ["deep"]


def test_a_link_takes_the_place_of_a_file(src: Path, tmp_path: Path) -> None:
    (src / "file").unlink()
    (src / "file").symlink_to("elsewhere")
    for function in (OLD, NEW):
        (tmp_path / function.__module__).mkdir()
        (tmp_path / function.__module__ / "file").write_text("old")
    with pytest.raises(shutil.Error, match="File exists"):
        OLD(src, tmp_path / OLD.__module__, symlinks=True, dirs_exist_ok=True)
    NEW(src, tmp_path / NEW.__module__, symlinks=True, dirs_exist_ok=True)
    assert os.readlink(tmp_path / NEW.__module__ / "file") == "elsewhere"


def test_a_folder_in_the_place_of_a_file_is_an_error(src: Path, tmp_path: Path) -> None:
    for function in (OLD, NEW):
        (tmp_path / function.__module__ / "file").mkdir(parents=True)
    OLD(src, tmp_path / OLD.__module__, dirs_exist_ok=True)
    assert (tmp_path / OLD.__module__ / "file" / "file").read_text() == "new"
    with pytest.raises(shutil.Error, match="Is a directory"):
        NEW(src, tmp_path / NEW.__module__, dirs_exist_ok=True)


def test_devices_are_not_read(src: Path, tmp_path: Path) -> None:
    (src / "device").symlink_to(os.devnull)
    OLD(src, tmp_path / "old")
    assert (tmp_path / "old" / "device").read_bytes() == b""
    with pytest.raises(shutil.Error, match="character device"):
        NEW(src, tmp_path / "new")
    assert os.listdir(tmp_path / "new") == ["file"]


def test_a_relative_link_is_looked_at_from_where_it_lies(src: Path, tmp_path: Path) -> None:
    (src / "link").symlink_to("file")
    NEW(src, tmp_path / "new", ignore_dangling_symlinks=True)
    assert (tmp_path / "new" / "link").read_text() == "new"


def test_any_error_of_the_copy_function_is_collected(src: Path, tmp_path: Path) -> None:
    def fail(source: str, target: str) -> None:
        raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        OLD(src, tmp_path / "old", copy_function=fail)
    with pytest.raises(shutil.Error, match="not this one"):
        NEW(src, tmp_path / "new", copy_function=fail)


def test_the_copy_function_is_called_in_threads(src: Path, tmp_path: Path) -> None:
    both, threads = threading.Barrier(2), set[int]()

    def function(source: str, target: str) -> None:
        if threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            both.wait(60)  # passes only while another call runs
        shutil.copy2(source, target)

    for number in range(600):  # more than one batch
        (src / f"more{number}").write_text("")
    NEW(src, tmp_path / "new", copy_function=function, jobs=2)
    assert len(threads) == 2 and threading.get_ident() not in threads


def test_holes_stay_holes(src: Path, tmp_path: Path) -> None:
    with open(src / "sparse", "wb") as file:
        file.truncate(1 << 20)
    if os.stat(src / "sparse").st_blocks:
        pytest.skip("this file system has no holes")
    NEW(src, tmp_path / "new")
    assert os.stat(tmp_path / "new" / "sparse").st_blocks == 0
