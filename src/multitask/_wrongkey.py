"""The error of two sides that do not trust each other, to be had from ``multitask.errors``: loaded when asked for."""

from __future__ import annotations

import multiprocessing

from multitask.errors import MultitaskError


class WrongKey(MultitaskError, multiprocessing.AuthenticationError):
    """The two ends of a queue between machines do not have the same ``authkey``.

    Raised by ``Queue.connect``, and by whoever waits when a connection is made again. Nothing was sent, nothing
    unpickled. Also a ``multiprocessing.AuthenticationError``.
    """


WrongKey.__module__ = MultitaskError.__module__  # its one public name
