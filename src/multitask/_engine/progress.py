"""``progress=True``: how far a map or a stream is, on stderr; a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
from typing import Any

from multitask._engine import clock

PLAIN_SECONDS = 2.0  # at most one plain line in this time, besides the last


class Progress:
    """Counts what is done. ``advance`` may be called by any thread, ``finish`` more than once."""

    def __init__(self, text: str, total: int | None) -> None:
        self.text = text
        self.total = total
        self.done = 0
        self._lock = threading.Lock()
        self._finished = False
        self._bar = _bar(text, total) if sys.stderr is not None and sys.stderr.isatty() else None
        self._started = clock.monotonic()
        self._last = self._started

    def advance(self, items: int) -> None:
        """*items* more are done."""
        with self._lock:
            self.done += items
            if self._finished:
                return
            if self._bar is not None:
                self._bar.update(0, completed=self.done)
            elif clock.monotonic() - self._last >= PLAIN_SECONDS:
                self._last = clock.monotonic()
                self._print()

    def finish(self) -> None:
        """Show the final state; later calls do nothing."""
        with self._lock:
            if self._finished:
                return
            self._finished = True
            if self._bar is not None:
                self._bar.update(0, completed=self.done)
                self._bar.stop()
            else:
                self._print()

    def _print(self) -> None:
        seconds = clock.monotonic() - self._started
        rate = f", {self.done / seconds:,.0f}/s" if seconds > 0 else ""
        of = f" of {self.total:,} ({self.done / self.total:.0%})" if self.total else ""
        if sys.stderr is not None:
            sys.stderr.write(f"{self.text}: {self.done:,}{of} after {seconds:.1f} s{rate}\n")
            sys.stderr.flush()


def open_progress(progress: bool | str | None, name: str, items: object) -> Progress | None:
    """The Progress asked for by *progress* (True, or a text to show), None when none is wanted."""
    if not progress:
        return None
    length = getattr(type(items), "__len__", None)
    total = None if length is None else int(length(items))
    return Progress(progress if isinstance(progress, str) else name, total)


def _bar(text: str, total: int | None) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.add_task(text, total=total)
    bar.start()
    return bar
