"""The error of a pool that can do no more, to be had from ``multitask.errors``: loaded with what it is a kind of."""

from __future__ import annotations

import concurrent.futures

from multitask.errors import MultitaskError


class PoolBroken(MultitaskError, concurrent.futures.BrokenExecutor):
    """The pool cannot get a worker running (its initializer fails or kills the worker each time).

    Also a ``concurrent.futures.BrokenExecutor``, and so a RuntimeError.
    """


PoolBroken.__module__ = MultitaskError.__module__  # its one public name
