"""The only module that prints: data to stdout, talk to stderr, progress only where somebody watches."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from multitask._engine import clock

if TYPE_CHECKING:
    from rich.progress import Progress

# A run that is over sooner shows no bar (and does not pay for loading one).
BAR_AFTER_SECONDS = 0.3
LINE_EVERY_SECONDS = 5.0
EVENT_EVERY_SECONDS = 1.0


class Output:
    """Where a command writes. ``json`` turns what is told on stdout into typed lines.

    A reader of stdout that goes away ends the command by BrokenPipeError, or, with ``must_be_read`` off, is no
    reason to stop.
    """

    def __init__(self) -> None:
        self.json = False
        self.must_be_read = True
        self.bar: Bar | None = None

    # --- stdout
    def data(self, text: str) -> None:
        """A line of the result. Bytes that were no text when they came in go out as they were."""
        stdout = sys.stdout
        raw = getattr(stdout, "buffer", None)
        if raw is None:
            stdout.write(text + "\n")
            return
        try:
            raw.write((text + "\n").encode("utf-8", "surrogateescape"))
        except BrokenPipeError:
            if self.must_be_read:
                raise
            _silence(sys.stdout)

    def event(self, type: str, **fields: Any) -> None:
        """A typed line, ASCII only: names that are no text keep their bytes as ``os.fsdecode`` does."""
        import json

        self.data(json.dumps({"type": type, **fields}, default=repr))

    def flush(self) -> None:
        """Let a reader at the other end of a pipe see what was written."""
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            if self.must_be_read:
                raise
            _silence(sys.stdout)

    # --- stderr
    def talk(self, text: str) -> None:
        """A line for people, above the bar when there is one."""
        if self.bar is not None and self.bar.say(text):
            return
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except OSError:
            pass  # nobody listens; the exit code still tells

    def error(self, what: str, *, command: str = "", why: str | None = None, fix: str | None = None) -> None:
        """Why nothing was done, and what to do."""
        self.talk(f"multitask{' ' + command if command else ''}: {what}")
        for label, text in (("why", why), ("fix", fix)):
            if text:
                self.talk(f"  {label}: {text}")
        if self.json:
            self.event("error", what=what, why=why, fix=fix)

    def close(self) -> None:
        """Write out what is buffered; a reader that is gone is no failure."""
        try:
            self.flush()
        except OSError:
            _silence(sys.stdout)
        except ValueError:
            pass  # closed already


def _silence(stream: Any) -> None:
    """Let the interpreter's own flush at the end go nowhere instead of complaining."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):
        pass


def watched() -> bool:
    """Whether somebody looks at stderr on a terminal that can redraw a line."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


class Bar:
    """Progress: a bar on a terminal, a line now and then elsewhere, events with ``--json``.

    ``update`` may be called as often as one likes.
    """

    def __init__(self, out: Output, what: str) -> None:
        self._out, self._what = out, what
        self._began = clock.monotonic()
        self._said = self._began
        self._live: Progress | None = None
        self._row: Any = None

    def __enter__(self) -> Bar:
        self._out.bar = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._out.bar = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, share: float | None, text: str, fields: dict[str, Any]) -> None:
        """*share* done (None: unknown), *text* for people, *fields* for ``--json``."""
        now = clock.monotonic()
        if watched():
            if now - self._began >= BAR_AFTER_SECONDS:
                self._draw(share, text)
        elif not self._out.json and now - self._said >= LINE_EVERY_SECONDS:
            self._said = now
            self._out.talk(text)
        if self._out.json and now - self._said >= EVENT_EVERY_SECONDS:
            self._said = now
            self._out.event("progress", **fields)
            self._out.flush()

    def say(self, text: str) -> bool:
        """Print a line above the bar; False when no bar is drawn."""
        if self._live is None:
            return False
        self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        return True

    def _draw(self, share: float | None, text: str) -> None:
        if self._live is None:
            self._live = _rich_bar()
            self._row = self._live.add_task(self._what, total=1.0, text=text)
            self._live.start()
        total = None if share is None else 1.0
        self._live.update(self._row, completed=share or 0.0, total=total, text=text)
        self._live.refresh()


def _rich_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    # Drawn only when update() is called: no thread of its own. NO_COLOR is heeded by rich.
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )
