"""The report and its words."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multitask.copying.plan import Found
from multitask.copying.report import CopyReport, Progress, Rate, next_command, progress_text, summary_lines
from multitask.copying.walk import FAILED, SKIPPED, Problem
from multitask.copying.words import count_text, shown, size_text, time_text, typed


def report(**changes: object) -> CopyReport:
    done = CopyReport("src", "dst", files=5, folders=2, bytes=3000, seconds=1.5, found=Found(files=5, folders=2))
    for name, value in changes.items():
        setattr(done, name, value)
    return done


def test_a_good_copy_is_compared_next() -> None:
    assert next_command(report()) == "diff -r src dst"
    assert next_command(report(found=Found(links=1))) == "diff -r --no-dereference src dst"


def test_a_copy_with_failures_is_repeated_next() -> None:
    assert next_command(report(failed=1), ["--jobs 3"]) == "multitask copy --merge --jobs 3 src dst"


def test_the_summary_ends_with_failures_then_the_next_command() -> None:
    done = report()
    done.note(Problem("pipe", SKIPPED, "a fifo"))
    done.note(Problem("bad", FAILED, "Permission denied"))
    lines = summary_lines(done, "try again")
    assert lines[-1] == "next: try again"
    assert lines[-2] == "    bad: Permission denied"
    assert lines[0] == "copied in part: src -> dst in 1.50 s (3 files/s, 2.0 kB/s)"
    assert lines[1] == "  5 files (3.0 kB), 0 links, 2 folders + 1 skipped + 1 failed = 9 entries found"


def test_many_failures_are_cut_and_the_rest_counted() -> None:
    done = report()
    for number in range(60):
        done.note(Problem(str(number), FAILED, "no"))
    assert summary_lines(done, "x")[-2] == "    and 10 more; --json lists them all"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain \xc3\xa9 name", "plain \xe9 name"),
        (b"no text \xff", "no text \\xff"),
        (b"line\nbreak\ttab\x1b[31m", "line\\nbreak\\ttab\\x1b[31m"),
        ("\u202egnp.exe".encode(), "\\u202egnp.exe"),
        (b"\x7f\xc2\x9b", "\\x7f\\x9b"),
    ],
)
def test_names_are_shown_without_harm(raw: bytes, text: str) -> None:
    assert shown(os.fsdecode(raw)) == text


@example("\u05c8".encode())  # not assigned
@given(st.binary(min_size=1, max_size=30).filter(lambda raw: b"\0" not in raw))
def test_a_typed_name_means_the_same_to_a_shell(raw: bytes) -> None:
    word = typed(os.fsdecode(raw))
    assert "\n" not in word and word.isprintable()
    echoed = subprocess.run(["bash", "-c", f"printf %s {word}"], stdout=subprocess.PIPE, check=True).stdout
    assert echoed.removeprefix(b"./") == raw.removeprefix(b"./")


def test_sizes_and_times_read_well() -> None:
    assert [size_text(size) for size in (0, 999, 1500, 99_960, 1_000_000, 2.5e12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "100 kB",
        "1.0 MB",
        "2.5 TB",
    ]
    assert [time_text(seconds) for seconds in (0.254, 12.3, 75, 3700)] == ["0.25 s", "12 s", "1:15", "1:01:40"]
    assert [count_text(count, "entry", "entries") for count in (0, 1, 1200)] == [
        "0 entries",
        "1 entry",
        "1,200 entries",
    ]


def test_the_time_left_follows_from_what_was_done_lately() -> None:
    rate = Rate(100.0)
    assert rate.seconds_for(1000) is None
    rate.add(102.0, 0, 4_000_000)
    assert rate.bytes_per_second() == 2_000_000
    assert rate.seconds_for(1_000_000) == pytest.approx(0.5)
    for second in range(103, 140):
        rate.add(float(second), 0, 4_000_000 + (second - 102) * 1000)
    assert rate.bytes_per_second() == pytest.approx(1000), "the fast start is long past"


def test_progress_says_when_the_totals_are_not_known_yet() -> None:
    now = Progress(3, 1000, 10, 5000, False, 0, 1.0, 1000.0, 4.0)
    assert progress_text(now) == "3 of 10+ files, 1.0 kB of 5.0 kB+, 1.0 kB/s"
    counted = Progress(3, 1000, 10, 5000, True, 2, 1.0, 1000.0, 4.0)
    assert progress_text(counted) == "3 of 10 files, 1.0 kB of 5.0 kB, 1.0 kB/s, 4 s left, 2 failed"
