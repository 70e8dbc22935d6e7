"""Raising a task's error as often as somebody asks for it."""

from __future__ import annotations

from typing import Any, NoReturn


def raise_again(task: Any, error: BaseException) -> NoReturn:
    """Raise *error* of *task* with the traceback that it came with.

    Without that, each raise of the same error would add its frames to those of the raise before.
    """
    known = task.__dict__
    if "_first_traceback" not in known:
        known["_first_traceback"] = error.__traceback__
    try:
        raise error.with_traceback(known["_first_traceback"])
    finally:
        # Breaks the cycle error -> traceback -> this frame -> error.
        del task, error
