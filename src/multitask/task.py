"""Task: what a submitted call became; wait for it, ask for its result, cancel it, await it.

A Task is a ``concurrent.futures.Future`` and an ``AsyncResult`` of ``multiprocessing.pool`` at once. Its state
lives in a base class that comes in two makes with the same names: the compiled one for the native core, the one
in ``_engine/taskbase.py`` for the portable cores. ``Task`` is what both have in common; a pool makes
``NativeTask`` or ``PlainTask``.

Rule: nothing here changes the state; ``_core`` does. ``Future.__init__`` is never called (it costs more than
the rest of a submit): ``_condition``, ``_waiters`` and ``_done_callbacks`` appear when somebody looks at them.
"""

from __future__ import annotations

import concurrent.futures
import weakref
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from multitask import _native
from multitask._engine.core import CANCELLED, TAKEN_BACK, Core, Options
from multitask._engine.reraise import raise_again
from multitask._engine.sites import Site, call_name, site_text
from multitask._engine.taskbase import TaskBase as PlainBase
from multitask._engine.unread import heard
from multitask.errors import TimeoutError

if TYPE_CHECKING:
    from multitask._engine.callbacks import Owed
    from multitask._engine.engine import Engine

__all__ = ["ExecutorTask", "Task"]

T = TypeVar("T")

# id(core) -> its engine. A task knows only its core, and a core must not keep its engine alive.
_engines: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()


def introduce(engine: Engine) -> None:
    """Let the tasks of *engine* find it, for cancelling what runs."""
    _engines[id(engine.core)] = engine


class Task(concurrent.futures.Future[T]):
    """One submitted call. Made by a pool, never by hand."""

    __slots__ = ()

    if TYPE_CHECKING:
        _status: int
        _settled: bool
        _core: Core
        _basket: Any
        _options: Options | None
        _site: Site | None
        _fn: Any
        _asked: bool

        def _outcome(self) -> tuple[bool, Any]: ...
        def _add_hook(self, hook: Callable[[Any], object]) -> bool: ...

    # Set on the few instances that need them.
    _owed: Owed | None = None  # callbacks that run before get() returns, as in multiprocessing
    _members: list[Task[Any]] | None = None  # the chunks of a map
    _label: str | None = None  # a map's function
    _first_traceback: TracebackType | None = None

    # --- concurrent.futures.Future

    def result(self, timeout: float | None = None) -> T:
        """What the call returned, waiting for it at most *timeout* seconds; raises what the call raised.

        Raises ``CancelledError`` when the task was cancelled and ``multitask.TimeoutError`` when the wait ran
        out, which does nothing to the task.
        """
        if not self._settled and not self._core.wait(self, timeout):
            raise self._too_late(timeout)
        ok, value = self._outcome()
        if ok:
            return value  # type: ignore[no-any-return]
        heard(self._core, self)
        try:
            raise_again(self, value)
        finally:
            # Breaks the cycle error -> traceback -> this frame -> error.
            del self, value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, or None; waits like ``result``. Raises ``CancelledError`` when cancelled."""
        if not self._settled and not self._core.wait(self, timeout):
            raise self._too_late(timeout)
        ok, value = self._outcome()
        if ok:
            return None
        heard(self._core, self)
        if self.cancelled():
            raise value
        return value  # type: ignore[no-any-return]

    def done(self) -> bool:
        """Whether the task has finished, failed or been cancelled."""
        return self._settled

    def running(self) -> bool:
        """Whether a worker has started the call and not finished it."""
        if self._settled:
            return False
        if self._members is not None:
            return any(member.running() for member in self._members)
        return self._core.running(self)

    def cancelled(self) -> bool:
        """Whether the task was cancelled (or stopped by ``terminate``)."""
        if self._status == CANCELLED:
            return True
        return (
            self._settled and self._members is not None and any(member._status == CANCELLED for member in self._members)
        )

    def cancel(self) -> bool:
        """Take the task back if it waits, stop it if it runs; True when it is cancelled now.

        Stopping kills the worker process that runs it (and what it started) and replaces it. A thread cannot be
        stopped: there a running task goes on, and this is False.
        """
        if self._settled:
            return self.cancelled()
        if self._members is not None:
            # The parent first, so that it is known as cancelled and not as failed by a cancelled chunk.
            withdrawn = self._core.withdraw(self) == TAKEN_BACK
            cancelled = [member.cancel() for member in self._members]
            return withdrawn or any(cancelled)
        engine = _engines.get(id(self._core))
        if engine is None:
            return self._core.withdraw(self) == TAKEN_BACK or self.cancelled()
        return bool(engine.cancel(self))

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Call ``fn(task)`` when the task is done: on the pool's callback thread, at once here if it already is."""
        if not self._add_hook(fn):
            try:
                fn(self)
            except Exception as error:
                from multitask._engine.callbacks import report

                report(error, fn, self)

    def set_running_or_notify_cancel(self) -> bool:
        """Refused: a task's state belongs to its pool."""
        raise self._not_yours()

    def set_result(self, result: T) -> None:
        """Refused: a task's state belongs to its pool."""
        raise self._not_yours()

    def set_exception(self, exception: BaseException | None) -> None:
        """Refused: a task's state belongs to its pool."""
        raise self._not_yours()

    # --- multiprocessing.pool.AsyncResult

    def get(self, timeout: float | None = None) -> T:
        """``result(timeout)``; where the task has a callback, it has run when this returns."""
        if self._owed is not None:
            self.wait(timeout)
            if not self._settled or not self._owed.paid():
                raise self._too_late(timeout)
        return self.result(timeout)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the task is done, at most *timeout* seconds; no error when the time runs out."""
        owed = self._owed
        if owed is None:
            if not self._settled:
                self._core.wait(self, timeout)
        else:
            owed.wait(self, timeout)

    def ready(self) -> bool:
        """Whether ``get()`` would return or raise at once."""
        return self._settled and (self._owed is None or self._owed.paid())

    def successful(self) -> bool:
        """Whether the call returned without an error; ValueError when the task is not done yet."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._outcome()[0]

    # --- asyncio

    def __await__(self) -> Generator[Any, None, T]:
        """Await the result; cancelling the awaiting coroutine cancels the task, ``asyncio.shield`` leaves it."""
        import asyncio  # 30 ms that most programs never need; whoever awaits has it already

        return asyncio.wrap_future(self).__await__()

    # --- what it looks like

    @property
    def name(self) -> str:
        """The task's name: that given by ``options(name=…)``, otherwise the function's."""
        options = self._options
        if options is not None and options.name:
            return options.name
        return self._label or call_name(self._fn)

    def __repr__(self) -> str:
        at = site_text(self._submitted_at())
        return f"<{_public_name(self)} {self.name} {self._state_text()}, submitted at {at}>"

    def _submitted_at(self) -> Site | None:
        if self._site is None and self._members:
            return self._members[0]._site
        return self._site

    def _state_text(self) -> str:
        if self.cancelled():
            return "cancelled"
        if not self._settled:
            return "running" if self.running() else "waiting"
        if not self._asked:
            return "done"
        ok, value = self._outcome()
        return "finished" if ok else f"failed with {type(value).__name__}"

    def _too_late(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"{self!r} was not done after {timeout:g} s" if timeout is not None else repr(self))

    def _not_yours(self) -> concurrent.futures.InvalidStateError:
        return concurrent.futures.InvalidStateError(f"the state of {self!r} belongs to its pool")


class ExecutorTask(Task[T]):
    """A task of an Executor: ``cancel()`` is the standard library's, ``kill()`` stops a running one."""

    __slots__ = ()

    def cancel(self) -> bool:
        """Take the task back if it waits; False when it runs or is finished."""
        if self._settled:
            return self.cancelled()
        return self._core.withdraw(self) == TAKEN_BACK or self.cancelled()

    def kill(self) -> bool:
        """Take the task back if it waits, stop it if it runs (where the kind of worker can)."""
        return Task.cancel(self)


class PlainTask(PlainBase, Task[T]):  # type: ignore[override]
    """Task of the portable cores."""

    __slots__ = ()


class PlainExecutorTask(PlainBase, ExecutorTask[T]):  # type: ignore[override]
    """ExecutorTask of the portable cores."""

    __slots__ = ()


if _native.available:

    class NativeTask(_native.core.TaskBase, Task[T]):
        """Task of the native core."""

        __slots__ = ()

    class NativeExecutorTask(_native.core.TaskBase, ExecutorTask[T]):
        """ExecutorTask of the native core."""

        __slots__ = ()


def task_class(kind: str, *, executor: bool = False) -> type[Task[Any]]:
    """The make of Task for workers of *kind*."""
    if kind == "process" and _native.available:
        return NativeExecutorTask if executor else NativeTask
    return PlainExecutorTask if executor else PlainTask


def _public_name(task: Task[Any]) -> str:
    return "ExecutorTask" if isinstance(task, ExecutorTask) else "Task"
