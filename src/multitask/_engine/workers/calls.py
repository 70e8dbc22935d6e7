"""Running one call in this very process, and what an error of it looks like."""

from __future__ import annotations

import opcode
from collections.abc import Callable, Sequence
from typing import Any

from multitask._engine.core import CALL, CHUNK

_RAISE = opcode.opmap["RAISE_VARARGS"]


def perform(mode: int, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any] | None) -> tuple[bool, Any]:
    """(True, what the call returned) or (False, what it raised, whatever that is)."""
    try:
        if mode == CALL:
            return True, fn(*args, **kwargs) if kwargs else fn(*args)
        if mode == CHUNK:
            return True, [fn(item) for item in args[0]]
        return True, [fn(*items) for items in args[0]]
    except BaseException as error:
        # Without this frame: it would keep the arguments alive, and tells the reader nothing.
        trace = error.__traceback__
        return False, error.with_traceback(trace.tb_next if trace is not None and trace.tb_next is not None else trace)


def was_interrupted(error: BaseException) -> bool:
    """Whether *error* is a Ctrl-C, and not a KeyboardInterrupt that the code itself raised.

    Python's signal handler has no frame of its own: the innermost frame of the traceback was interrupted at any
    instruction but a ``raise``.
    """
    if not isinstance(error, KeyboardInterrupt) or error.__traceback__ is None:
        return False
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] != _RAISE
