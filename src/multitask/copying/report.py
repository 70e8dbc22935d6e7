"""What a copy did, counted: every entry that was found is in exactly one of the counts.

Pure: the run fills it in, the command line shows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from multitask.copying.plan import Found
from multitask.copying.walk import FAILED, SKIPPED, Problem
from multitask.copying.words import count_text, shown, size_text, time_text, typed

MOST_SHOWN = 50
# What creating one file costs, in bytes that could be written meanwhile: lets files and bytes share one time left.
FILE_WEIGHT = 64 << 10
RATE_SECONDS = 10.0


@dataclass
class CopyReport:
    """The result of a copy. ``files links folders kept skipped failed left`` add up to ``found.entries``.

    ``kept`` were there already (same size and time), ``skipped`` are fifos, devices and sockets, ``left`` were
    found but not done, or not known to be done, when the copy stopped early: it was ``interrupted``, or for the
    reason in ``stopped``.
    """

    source: str
    target: str
    files: int = 0
    links: int = 0
    folders: int = 0
    kept: int = 0
    skipped: int = 0
    failed: int = 0
    left: int = 0
    bytes: int = 0
    seconds: float = 0.0
    found: Found = field(default_factory=Found)
    interrupted: bool = False
    stopped: str | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Everything that can be copied is there."""
        return not (self.failed or self.left or self.interrupted or self.stopped)

    @property
    def accounted(self) -> int:
        """Sum of all counts; equals ``found.entries``."""
        counted = self.files + self.links + self.folders + self.kept
        return counted + self.skipped + self.failed + self.left

    @property
    def failures(self) -> list[Problem]:
        """What was not copied though it should have been."""
        return [problem for problem in self.problems if problem.what == FAILED]

    @property
    def skips(self) -> list[Problem]:
        """What is never copied: fifos, devices, sockets."""
        return [problem for problem in self.problems if problem.what == SKIPPED]

    def note(self, problem: Problem) -> None:
        """Count and remember one entry that was not copied."""
        self.problems.append(problem)
        if problem.what == FAILED:
            self.failed += 1
        else:
            self.skipped += 1

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: the counts and how it ended, without the single problems."""
        fields = asdict(self)
        del fields["problems"]
        fields["found"] = self.found.entries
        return fields


@dataclass(frozen=True)
class Progress:
    """Where a copy stands. The totals grow until ``counted``."""

    files: int
    bytes: int
    total_files: int
    total_bytes: int
    counted: bool
    failed: int
    seconds: float
    rate: float  # bytes a second, lately
    seconds_left: float | None

    @property
    def share(self) -> float:
        """Done part of the work, 0 to 1; files weigh as well as bytes."""
        total = weight(self.total_files, self.total_bytes)
        return min(weight(self.files, self.bytes) / total, 1.0) if total else 1.0


def weight(files: int, size: int) -> int:
    """Work in bytes' worth."""
    return files * FILE_WEIGHT + size


class Rate:
    """How fast it went during the last seconds; the clock is the caller's."""

    def __init__(self, now: float) -> None:
        self._points: deque[tuple[float, int, int]] = deque([(now, 0, 0)])

    def add(self, now: float, files: int, size: int) -> None:
        """At *now*, this much was done altogether."""
        self._points.append((now, files, size))
        while len(self._points) > 2 and now - self._points[1][0] >= RATE_SECONDS:
            self._points.popleft()

    def bytes_per_second(self) -> float:
        """Bytes a second over the last seconds."""
        (then, _, before), (now, _, after) = self._points[0], self._points[-1]
        return max(after - before, 0) / (now - then) if now > then else 0.0

    def seconds_for(self, rest: int) -> float | None:
        """Seconds for *rest* bytes' worth of work at this pace; None while nothing is known."""
        (then, *before), (now, *after) = self._points[0], self._points[-1]
        done = weight(*after) - weight(*before)
        return rest * (now - then) / done if done > 0 else None


def progress_text(progress: Progress) -> str:
    """One line: how far it is."""
    total = f"{progress.total_files:,}" + ("" if progress.counted else "+")
    total_size = size_text(progress.total_bytes) + ("" if progress.counted else "+")
    parts = [
        f"{progress.files:,} of {total} files",
        f"{size_text(progress.bytes)} of {total_size}",
        f"{size_text(progress.rate)}/s",
    ]
    if progress.seconds_left is not None and progress.counted and progress.share < 1:
        left = max(round(progress.seconds_left), 1)
        parts.append(f"{left} s left" if left < 60 else f"{time_text(left)} left")
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    return ", ".join(parts)


def summary_lines(report: CopyReport, next_step: str) -> list[str]:
    """What happened, for people: counts, then what was passed over, then failures, then what to type next."""
    lines = [_headline(report), _counts(report)]
    if report.kept:
        lines.append(f"  {count_text(report.kept, 'entry', 'entries')} already there, with the same size and time")
    lines += _problem_lines(report.skips, "skipped, no content to copy", "entry", "entries")
    if report.left:
        lines.append(f"  {count_text(report.left, 'entry', 'entries')} left to do")
    lines += _problem_lines(report.failures, "FAILED", "entry", "entries")
    if report.stopped:
        lines.append(f"  stopped: {report.stopped}")
    return [*lines, f"next: {next_step}"]


def _headline(report: CopyReport) -> str:
    pace = f"in {time_text(report.seconds)}"
    if report.files and report.seconds > 0:
        files, size = report.files / report.seconds, report.bytes / report.seconds
        pace += f" ({files:,.0f} files/s, {size_text(size)}/s)" if report.bytes else f" ({files:,.0f} files/s)"
    where = f"{shown(report.source)} -> {shown(report.target)}"
    verb = "copied" if report.ok else "copied in part"
    if report.interrupted or report.stopped:
        verb = "interrupted" if report.interrupted else "stopped"
    return f"{verb}: {where} {pace}"


def _counts(report: CopyReport) -> str:
    copied = [
        f"{count_text(report.files, 'file')} ({size_text(report.bytes)})",
        count_text(report.links, "link"),
        count_text(report.folders, "folder"),
    ]
    rest = [(report.kept, "kept"), (report.skipped, "skipped"), (report.failed, "failed"), (report.left, "left")]
    others = "".join(f" + {count:,} {word}" for count, word in rest if count)
    found = "" if report.interrupted and report.left else " found"
    return f"  {', '.join(copied)}{others} = {count_text(report.accounted, 'entry', 'entries')}{found}"


def _problem_lines(problems: list[Problem], title: str, one: str, many: str) -> list[str]:
    if not problems:
        return []
    lines = [f"  {count_text(len(problems), one, many)} {title}:"]
    lines += [f"    {shown(problem.path or '.')}: {problem.why}" for problem in problems[:MOST_SHOWN]]
    if len(problems) > MOST_SHOWN:
        lines.append(f"    and {len(problems) - MOST_SHOWN:,} more; --json lists them all")
    return lines


def next_command(report: CopyReport, options: Iterable[str] = ()) -> str:
    """What to type next: a comparison when all is there, the same command again when not."""
    source, target = typed(report.source), typed(report.target)
    if report.ok:
        links = " --no-dereference" if report.found.links else ""
        return f"diff -r{links} {source} {target}"
    extra = [option for option in options if option != "--merge"]
    return " ".join(["multitask copy --merge", *extra, source, target])
