"""The error of a wait that ran out of time, to be had from ``multitask.errors``: loaded with what it is a kind of."""

from __future__ import annotations

import builtins
import multiprocessing

from multitask.errors import MultitaskError


class TimeoutError(MultitaskError, multiprocessing.TimeoutError, builtins.TimeoutError):
    """A wait ran out of time; the work itself goes on.

    Also a subclass of ``multiprocessing.TimeoutError``.
    """


TimeoutError.__module__ = MultitaskError.__module__  # its one public name
