"""``multitask copy SRC DST``: a folder, copied by all workers at once."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from multitask.cli import exit_codes
from multitask.cli.args import add_common
from multitask.cli.output import Bar, Output
from multitask.copying.checks import CopyRefused, check
from multitask.copying.report import CopyReport, Progress, next_command, progress_text, summary_lines
from multitask.copying.run import Copy
from multitask.copying.walk import Problem
from multitask.copying.words import shown, typed
from multitask.errors import MultitaskError

SCREEN = """\
multitask copy SRC DST: copy a folder with all workers at once

  example: multitask copy photos backup

  SRC             the folder to copy
  DST             what the copy is called; made when missing, must be empty otherwise
  --merge         copy into a DST that is not empty: what is there with the same size
                  and time is kept, other files of the same name are replaced
  --jobs N        workers (default: the CPUs this process may use)
  --kind KIND     process (default) or thread
  --json          one JSON object per line on stdout
  --help          everything: what is kept, what is skipped, exit codes

The last line says what to type next. Exit code 1: something could not be copied.
"""

DETAILS = """\
examples:
  multitask copy photos backup              backup becomes a copy of photos
  multitask copy --merge photos backup      go on after an interruption, or bring it up to date
  multitask copy --json photos backup | jq 'select(.type == "failed")'

Kept: content, modes, times (to the nanosecond), extended attributes, symbolic links as links, holes, empty and
read-only folders; owners when run as root. A trailing slash changes nothing: DST always becomes the copy, it is
never made inside an existing DST. Fifos, sockets and devices are named in the summary and not read. Hard links
become files of their own.

Each file is written under a temporary name (.multitask-…) in its folder and renamed when it is complete, so no
half-written file ever has its final name. Ctrl-C removes the temporary files and says how to go on. A file that
keeps changing while it is copied is reported and left out.

--json types: start, progress, failed, skipped, error, summary. Names that are no text have their bytes as lone
surrogates (Python's os.fsencode gets them back).

exit codes: 0 all copied; 1 something could not be copied, the rest is there; 2 refused, nothing written;
130 interrupted (143 by SIGTERM)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``SRC DST`` and the options."""
    parser.add_argument("source", metavar="SRC", help="the folder to copy")
    parser.add_argument("target", metavar="DST", help="what the copy is called")
    parser.add_argument(
        "--merge",
        action="store_true",
        help="copy into a DST that is not empty: what is there with the same size and time is kept, "
        "other files of the same name are replaced",
    )
    about = "what the workers are (default: process; a small folder is copied without workers)"
    add_common(parser, ("process", "thread"), default=None, help=about)


def run(options: argparse.Namespace, out: Output) -> int:
    """Check, copy under a progress bar, sum up."""
    source, target = options.source, options.target
    out.must_be_read = False  # the copy goes on when nobody reads its events any more
    try:
        check(source, target, merge=options.merge)
        os.makedirs(target, exist_ok=True)
    except CopyRefused as refused:
        out.error(refused.what, command="copy", why=refused.why, fix=refused.fix)
        return exit_codes.USAGE
    except OSError as error:
        fix = "choose another destination, or get the right to write there"
        out.error(f"cannot make {shown(target)}: {error.strerror}", command="copy", fix=fix)
        return exit_codes.USAGE
    if out.json:
        out.event("start", source=source, target=target, jobs=options.jobs, kind=options.kind)
    try:
        report, caught = _copy(options, out)
    except (OSError, MultitaskError) as error:
        again = f"multitask copy --merge {typed(source)} {typed(target)}"
        out.error(f"the copy stopped: {error}", command="copy", fix=f"remove the cause, then: {again}")
        return exit_codes.FAILED
    _sum_up(report, options, out)
    if report.interrupted:
        return 128 + caught
    return exit_codes.DONE if report.ok else exit_codes.FAILED


def _copy(options: argparse.Namespace, out: Output) -> tuple[CopyReport, int]:
    with Bar(out, "copy") as bar:

        def progress(now: Progress) -> None:
            fields = {**vars(now), "share": now.share}
            bar.update(now.share if now.counted else None, progress_text(now), fields)

        def problem(found: Problem) -> None:
            if out.json:
                out.event(found.what, path=found.path, why=found.why, errno=found.errno)

        copy = Copy(
            options.source,
            options.target,
            jobs=options.jobs,
            kind=options.kind,
            resume=options.merge,
            on_progress=progress,
            on_problem=problem,
        )
        with _signals(copy) as caught:
            report = copy.run()
    return report, caught[0] if caught else signal.SIGINT


@contextmanager
def _signals(copy: Copy) -> Iterator[list[int]]:
    """The first signal ends the copy at a safe point, where nothing is lost track of; a second one ends it at once."""
    caught: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt
        copy.interrupt()

    old = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ignored from outside (nohup, a background job): stays ignored.
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            old[number] = signal.signal(number, end)
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _sum_up(report: CopyReport, options: argparse.Namespace, out: Output) -> None:
    given = [f"--jobs {options.jobs}"] if options.jobs else []
    given += [f"--kind {options.kind}"] if options.kind else []
    step = next_command(report, given)
    if out.json:
        failures = [problem.path for problem in report.failures]
        out.event("summary", **report.as_dict(), ok=report.ok, failures=failures, next=step)
        return
    for line in summary_lines(report, step):
        out.talk(line)
