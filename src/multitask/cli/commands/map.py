"""``multitask map module:function [FILE|-]``: a function over lines, results in order."""

from __future__ import annotations

import argparse
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from multitask._engine import clock
from multitask.cli import exit_codes
from multitask.cli.args import add_common, not_negative, seconds
from multitask.cli.functions import NoSuchFunction, find, use_current_folder
from multitask.cli.lines import Lines
from multitask.cli.output import Output
from multitask.copying.words import count_text, shown, typed
from multitask.errors import MultitaskError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from multitask.pool import Calls

# Read ahead of what was written: so many lines, or so many characters of them.
WINDOW_LINES = 4096
WINDOW_CHARACTERS = 64 << 20

SCREEN = """\
multitask map MODULE:FUNCTION [FILE]: call a function with every line, print the results in order

  example: seq 5 | multitask map math:sqrt --as float

  MODULE:FUNCTION   what to call; modules in the current folder are found too
  FILE              where the lines are (default, or -: standard input)
  --as TYPE         what a line is: str (default), int, float or json
  --jobs N          workers (default: the CPUs this process may use)
  --kind KIND       process (default), thread, or inline (in this process: breakpoints work)
  --timeout S       seconds for one call, then it fails
  --retries N       more tries for a call that fails
  --json            one JSON object per line on stdout
  --help            everything

A line whose call fails is named on stderr, the rest is done; the exit code is 1 then.
"""

DETAILS = """\
examples:
  seq 5 | multitask map math:sqrt --as float
  multitask map thumbnails:make names.txt --jobs 4 --timeout 30 --retries 1
  tail -f access.log | multitask map parse:line --json

A result is written as str() makes it, as soon as all lines before it are written; what was read ahead is bounded,
so the input may be endless. Lines are UTF-8; other bytes go through unchanged (surrogateescape). The end of the
line, \\n or \\r\\n, is not part of it.

--json types: result (line, value), failed (line, error, message), error, summary. A value that JSON has no word
for is written as its repr().

exit codes: 0 all done; 1 some lines failed; 2 nothing was begun; 130 interrupted. A reader that closes the pipe
(| head) ends it quietly.
"""


class Entry(NamedTuple):
    """A line on its way: its task, or why it has none."""

    number: int
    text: str
    task: Future[Any] | None
    error: BaseException | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``MODULE:FUNCTION [FILE]`` and the options."""
    parser.add_argument("function", metavar="MODULE:FUNCTION", help="what to call with every line")
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="the lines (default: stdin, -)")
    parser.add_argument("--as", dest="type", choices=tuple(_convert()), default="str", help="what a line is")
    parser.add_argument("--timeout", type=seconds, metavar="S", help="seconds for one call, then it fails")
    parser.add_argument("--retries", type=not_negative, default=0, metavar="N", help="more tries for a failing call")
    add_common(parser, ("process", "thread", "inline"))


def run(options: argparse.Namespace, out: Output) -> int:
    """Find the function, open the lines, send one through the other."""
    try:
        function = find(options.function)
        lines = Lines(options.file)
    except NoSuchFunction as error:
        out.error(error.what, command="map", why=error.why, fix=error.fix)
        return exit_codes.USAGE
    except OSError as error:
        fix = "check the name of the file, or leave it out to read standard input"
        out.error(f"cannot read {shown(options.file)}: {error.strerror}", command="map", fix=fix)
        return exit_codes.USAGE
    with closing(lines):
        work = _Map(options, function, lines, out)
        try:
            return work.run()
        except KeyboardInterrupt:
            return work.interrupted()
        except MultitaskError as error:
            out.error(error.what, command="map", why=error.why, fix=error.fix or "`multitask doctor` looks for causes")
            return exit_codes.FAILED if work.done else exit_codes.USAGE


class _Map:
    """One run of the command. The main thread writes; a thread of its own reads, unless the kind is inline."""

    def __init__(self, options: argparse.Namespace, function: Callable[..., Any], lines: Lines, out: Output) -> None:
        self._options, self._function, self._lines, self._out = options, function, lines, out
        self._convert = _convert()[options.type]
        self._began = clock.monotonic()
        self._hint = ""
        self._first_failure: int | None = None
        self.done = self.failed = 0

    def run(self) -> int:
        from multitask.pool import Pool

        options = self._options
        here = os.getcwd()
        with Pool(options.jobs, use_current_folder, (here,), kind=options.kind, name="map") as pool:
            view: Calls = pool
            if options.timeout or options.retries:
                view = pool.options(timeout=options.timeout, retries=options.retries)
            if options.kind == "inline":
                self._lines.before_wait = self._out.flush
                for number, text in enumerate(self._lines, 1):
                    self._write(self._entry(view, number, text))
            else:
                self._through(view)
        return self._sum_up()

    # --- reading
    def _through(self, pool: Calls) -> None:
        window = _Window(WINDOW_LINES, WINDOW_CHARACTERS)
        entries: queue.SimpleQueue[Entry | BaseException | None] = queue.SimpleQueue()
        reader = threading.Thread(target=self._read, args=(pool, window, entries), name="multitask-map-lines")
        reader.start()
        try:
            for entry in _until_none(entries, self._out):
                self._write(entry)
                window.leave(len(entry.text))
        finally:
            window.shut()
            self._lines.stop()
            reader.join()

    def _read(self, pool: Calls, window: _Window, entries: queue.SimpleQueue[Entry | BaseException | None]) -> None:
        try:
            for number, text in enumerate(self._lines, 1):
                if not window.enter(len(text)):
                    return
                entries.put(self._entry(pool, number, text))
        except BaseException as error:
            entries.put(error)
        else:
            entries.put(None)

    def _entry(self, pool: Calls, number: int, text: str) -> Entry:
        try:
            value = self._convert(text)
        except ValueError:
            return Entry(number, text, None, ValueError(f"not {self._options.type}: {shown(text[:80])!r}"))
        return Entry(number, text, pool.submit(self._function, value))

    # --- writing
    def _write(self, entry: Entry) -> None:
        error = entry.error
        if entry.task is not None:
            # Not result(): an interruption inside the function must not look like one of ours.
            error = entry.task.exception()
        if error is not None:
            self._fail(entry, error)
            return
        assert entry.task is not None
        value = entry.task.result()
        if self._out.json:
            self._out.event("result", line=entry.number, value=value)
        else:
            self._out.data(str(value))
        self.done += 1

    def _fail(self, entry: Entry, error: BaseException) -> None:
        self.failed += 1
        if self._first_failure is None:
            self._first_failure = entry.number
        message = str(error).partition("\n")[0]
        name = type(error).__name__
        if self._out.json:
            self._out.event("failed", line=entry.number, error=name, message=str(error))
        self._out.flush()
        self._out.talk(f"multitask map: line {entry.number}: {name}{': ' + shown(message) if message else ''}")
        if not self._hint and self._options.type == "str" and isinstance(error, TypeError | ValueError):
            kind = _number(entry.text)
            if kind:
                self._hint = f"--as {kind}"
                self._out.talk(f"  fix: a line is text; {self._hint} makes it a number before the call")

    # --- the end
    def _sum_up(self) -> int:
        taken = clock.monotonic() - self._began
        step = self._next_step() if self.failed else None
        if self._out.json:
            self._out.event("summary", done=self.done, failed=self.failed, seconds=taken, next=step)
        if not self.failed:
            return exit_codes.DONE
        self._out.talk(f"multitask map: {count_text(self.done, 'line')} done, {self.failed:,} failed")
        self._out.talk(f"next: {step}")
        return exit_codes.FAILED

    def _next_step(self) -> str:
        name, file = typed(self._options.function), self._options.file
        options = f" --as {self._options.type}" if self._options.type != "str" else ""
        if self._hint:
            return f"multitask map {name} {self._hint}" + (f" {typed(file)}" if file != "-" else "")
        again = f"multitask map {name}{options} --kind inline"
        if file == "-":
            return f"{again}   (with line {self._first_failure} as input: breakpoints work there)"
        return f"sed -n {self._first_failure}p {typed(file)} | {again}"

    def interrupted(self) -> int:
        """Ctrl-C: say how far it came."""
        reached = self.done + self.failed
        if self._out.json:
            self._out.event("summary", done=self.done, failed=self.failed, interrupted=True)
        self._out.flush()
        self._out.talk(f"multitask map: interrupted after {count_text(reached, 'line')}, {self.failed:,} failed")
        if self._options.file != "-":
            rest = f"tail -n +{reached + 1} {typed(self._options.file)}"
            self._out.talk(f"next: {rest} | multitask map {typed(self._options.function)}")
        return exit_codes.INTERRUPTED


class _Window:
    """How much may be read and not yet written. ``enter`` blocks while it is full."""

    def __init__(self, lines: int, characters: int) -> None:
        self._most = (lines, characters)
        self._lines = self._characters = 0
        self._open = True
        self._changed = threading.Condition()

    def enter(self, size: int) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: not self._open or not self._is_full(size))
            self._lines += 1
            self._characters += size
            return self._open

    def leave(self, size: int) -> None:
        with self._changed:
            self._lines -= 1
            self._characters -= size
            self._changed.notify()

    def shut(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify()

    def _is_full(self, size: int) -> bool:
        lines, characters = self._most
        return self._lines >= lines or (self._lines > 0 and self._characters + size > characters)


def _until_none(entries: queue.SimpleQueue[Entry | BaseException | None], out: Output) -> Iterator[Entry]:
    while True:
        try:
            entry = entries.get_nowait()
        except queue.Empty:
            out.flush()  # nothing to do for now: let the reader of the results see them
            entry = entries.get()
        if entry is None:
            return
        if isinstance(entry, BaseException):
            raise entry
        if entry.task is not None and not entry.task.done():
            out.flush()
        yield entry


def _convert() -> dict[str, Callable[[str], Any]]:
    return {"str": str, "int": int, "float": float, "json": _from_json}


def _from_json(text: str) -> Any:
    import json

    return json.loads(text)


def _number(text: str) -> str | None:
    """What the text reads as: "int", "float", or None."""
    for kind, convert in (("int", int), ("float", float)):
        try:
            convert(text)
        except ValueError:
            continue
        return kind
    return None
