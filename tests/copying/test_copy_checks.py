"""What is refused, before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from multitask.copying.checks import CopyRefused, check


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "src" / "sub").mkdir(parents=True)
    (tmp_path / "src" / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain").write_text("x")
    (tmp_path / "link").symlink_to("src")
    (tmp_path / "into").symlink_to("src/sub")
    (tmp_path / "nowhere").symlink_to("missing/target")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ("missing", "new", "No such file"),
        ("plain", "new", "not a folder"),
        ("src", "src", "is the same folder"),
        ("src", "link", "is the same folder"),
        ("link", "src/", "is the same folder"),
        ("src", "src/../src/.", "is the same folder"),
        ("src", "src/new", "lies inside it"),
        ("src", "src/not/yet/there", "lies inside it"),
        ("src", "link/new", "lies inside it"),
        ("src", "into/new", "lies inside it"),
        ("link", "into", "lies inside it"),
        ("src", "full", "not empty"),
        ("src", "plain", "not a folder"),
        ("src", "nowhere", "leads nowhere"),
        ("src", "plain/new", "Not a directory"),
    ],
)
def test_it_is_refused_and_says_why_and_what_to_do(here: Path, source: str, target: str, why: str) -> None:
    before = sorted(os.walk(here))
    with pytest.raises(CopyRefused, match=why) as refused:
        check(source, target)
    assert refused.value.fix
    assert sorted(os.walk(here)) == before


@pytest.mark.parametrize("target", ["new", "new/deeper", "empty", "src2", "full/new"])
def test_it_is_allowed(here: Path, target: str) -> None:
    check("src", target)


def test_merge_allows_a_full_destination_but_nothing_else(here: Path) -> None:
    check("src", "full", merge=True)
    for target in ("src", "src/new", "plain"):
        with pytest.raises(CopyRefused):
            check("src", target, merge=True)


def test_a_source_below_the_destination_must_not_be_written_into(here: Path) -> None:
    check("src/sub", "src", merge=True)
    (here / "src" / "sub" / "sub").mkdir()
    with pytest.raises(CopyRefused, match="written into itself"):
        check("src/sub", "src", merge=True)
