"""Where a task was submitted, and what its call is named: made into text only when somebody reads it."""

from __future__ import annotations

import functools
import os
from types import CodeType

from multitask._typing import Any

Site = tuple[CodeType, int]  # the code object of the submitting frame and its f_lasti


def line_of(site: Site) -> int:
    """The line number of *site*."""
    code, offset = site
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return line
    return code.co_firstlineno


def site_text(site: Site | None, *, full: bool = False) -> str:
    """``file:line`` of *site*, with the whole path when *full*; "an unknown line" when there is none."""
    if site is None:
        return "an unknown line"
    path = site[0].co_filename
    return f"{path if full else os.path.basename(path)}:{line_of(site)}"


def call_name(fn: Any) -> str:
    """How *fn* is called in messages; runs no code of the user's beyond attribute look-ups, and never raises."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    except Exception:
        return type(fn).__name__
    return str(name)


_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_EXAMPLES = os.path.join(_PACKAGE, "examples") + os.sep


def is_ours(filename: str) -> bool:
    """Whether code of that file is this library's and not its user's."""
    return filename.startswith(_PACKAGE) and not filename.startswith(_EXAMPLES)
