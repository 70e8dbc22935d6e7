"""Every exception that multitask raises: what happened, why, what to do.

The text of an error is its first argument; ``why`` and ``fix`` are added as lines of their own.
All of them survive pickling, since they cross processes.
"""

from __future__ import annotations

import pickle

from multitask._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import CancelledError

    from multitask._broken import PoolBroken
    from multitask._timeout import TimeoutError
    from multitask._wrongkey import WrongKey

__all__ = [
    "CancelledError",
    "CannotTravel",
    "ConnectionLost",
    "MultitaskError",
    "NotSupported",
    "PoolBroken",
    "PoolClosed",
    "RemoteTraceback",
    "TaskTimeout",
    "TimeoutError",
    "WorkerLost",
    "WrongKey",
]


if not TYPE_CHECKING:

    def __getattr__(name):
        # These are related to classes whose modules a worker need not load to report an error.
        if name == "CancelledError":
            from concurrent.futures import CancelledError as found
        elif name == "PoolBroken":
            from multitask._broken import PoolBroken as found
        elif name == "TimeoutError":
            from multitask._timeout import TimeoutError as found
        elif name == "WrongKey":
            from multitask._wrongkey import WrongKey as found
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


class MultitaskError(Exception):
    """Base of this library's own errors.

    ``why`` is a cause that was observed, ``fix`` the next step for the reader; either may be None.
    """

    def __init__(self, what: str = "", *, why: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.what, dict(self.__dict__)))


def _rebuild(kind: type[MultitaskError], what: str, state: dict[str, Any]) -> MultitaskError:
    error = kind.__new__(kind)
    Exception.__init__(error, what)
    error.__dict__.update(state)
    return error


class WorkerLost(MultitaskError):
    """The worker that ran a task died under it.

    ``task`` names the call, ``worker`` the worker, ``pid`` its process, ``exitcode`` its exit code (-N: killed by
    signal N, None: unknown), ``item`` the index of the item inside a chunk, ``memory`` the last known
    resident bytes, ``note`` the last ``multitask.note()`` of the task and ``note_age`` its age in seconds.
    """

    task: str | None = None
    worker: str | None = None
    pid: int | None = None
    exitcode: int | None = None
    item: int | None = None
    memory: int | None = None
    note: str | None = None
    note_age: float | None = None


class TaskTimeout(MultitaskError):
    """A task ran longer than its ``timeout``; its worker was killed and replaced.

    Not a subclass of the built-in TimeoutError: that one means that a *wait* ran out.
    """


class CannotTravel(MultitaskError, pickle.PicklingError, TypeError):
    """A function, an argument or a result cannot go to another process; ``path`` says where in the object it sits."""

    path: str | None = None


class PoolClosed(MultitaskError, ValueError, RuntimeError):
    """Work was given to a pool that has been closed, terminated or inherited through a fork."""


class NotSupported(MultitaskError, NotImplementedError):
    """This kind of worker or this platform cannot do what was asked; the message names one that can."""


class ConnectionLost(MultitaskError, ConnectionError):
    """The server of a queue cannot be reached, or does not know any more what it was asked before.

    ``items``: messages that had come with the connection's last breath. The server may count them as taken, or give
    them to somebody else; None when nothing had come. Also the built-in ConnectionError, and so an OSError.
    """

    items: list[Any] | None = None


class RemoteTraceback(Exception):
    """The traceback of an error as it was in the worker, chained as the cause of the error here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"
