"""No failure is silent: what failed and was never asked for is shown on stderr when its pool ends."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any

from multitask._engine.sites import site_text

if TYPE_CHECKING:
    from multitask._engine.core import Core

LIMIT = 20  # blocks shown in full


def report(core: Core, title: str = "multitask") -> int:
    """Show the failures of *core* that nobody has asked for, each once; returns how many there were.

    Decodes the errors, which may run code of the user's: not for the manager thread.
    """
    failures = core.failures
    unread = []
    while failures:
        task = failures.pop(0)
        if not task._asked:
            unread.append(task)
    if not unread:
        return 0
    lines = [_block(task, title) for task in unread[:LIMIT]]
    if len(unread) > LIMIT:
        lines.append(f"{title}: and {len(unread) - LIMIT} more failed tasks whose result nobody asked for\n")
    if sys.stderr is not None:
        sys.stderr.write("".join(lines))
        sys.stderr.flush()
    return len(unread)


def _block(task: Any, title: str) -> str:
    _, error = task._outcome()
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # the user's __str__ and the like
        text = f"{type(error).__qualname__} (it cannot be printed)\n"
    return (
        f"{title}: the task {task.name} failed and nobody asked for its result; "
        f"submitted at {site_text(task._submitted_at(), full=True)}\n{text}"
    )
