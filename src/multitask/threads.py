"""Threads that keep what they return or raise, and that can be asked to stop.

``Thread`` is ``threading.Thread`` with the same signature and semantics, and with ``result()``, ``exception()`` and
``cancel()``.

Rule: what ``run`` returned or raised is written before the thread counts as ended, by that thread alone; everybody
else reads it after ``join``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from threading import current_thread
from typing import Any

from multitask._engine import patience
from multitask._engine.calls import check_call, check_made
from multitask.errors import CancelledError, TimeoutError

__all__ = ["CancelToken", "Thread", "current_thread", "current_token"]


class CancelToken:
    """Tells running code that it is no longer wanted. Any thread may use it.

    Nothing is stopped by force: the code looks (``cancelled``), asks to be ended (``check``) or sleeps in a way that
    ends at once (``wait``).
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def __repr__(self) -> str:
        return f"<CancelToken{' cancelled' if self.cancelled() else ''}>"

    def cancel(self) -> None:
        """Say that the work is no longer wanted. For good."""
        self._event.set()

    def cancelled(self) -> bool:
        """Whether that was said. Never blocks."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise CancelledError if that was said."""
        if self._event.is_set():
            raise CancelledError("it is no longer wanted: somebody called cancel()")

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until that is said, at most *timeout* seconds; whether it was. A ``time.sleep`` that can be ended."""
        return patience.wait(self._event, timeout)


_here = threading.local()


def current_token() -> CancelToken:
    """The token of the Thread that calls this; elsewhere, as in the main thread, one that nobody cancels."""
    token: CancelToken | None = getattr(_here, "token", None)
    if token is None:
        token = _here.token = CancelToken()
    return token


class Thread(threading.Thread):
    """``threading.Thread``, whose result, error and end are not lost.

    *target* is called with *args* and *kwargs* in a new thread once ``start()`` was called; or a subclass has a
    ``run`` of its own. What ``run`` returns is ``result()``. What it raises is ``exception()``, and is reported by
    ``threading.excepthook`` at once, as in the standard library, unless somebody waits in one of the two by then.
    SystemExit ends the thread without a report. What later versions of Python take besides (``context``) is in *more*.

    Raises TypeError for *args* or *kwargs* that cannot be called with.
    """

    # What is read after an __init__ that was not called.
    _made = False

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        **more: Any,
    ) -> None:
        args, kwargs = check_call("Thread", target, args, kwargs)
        super().__init__(group, target, name, args, kwargs, daemon=daemon, **more)
        self.token = CancelToken()
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiting = 0  # in result() or exception(): they hear of an error; changed under _counting
        self._counting = threading.Lock()
        self._made = True

    def start(self) -> None:
        """Start it. RuntimeError when it was started before or the system has no thread left."""
        self._check_made()
        before = self.__dict__.get("run")
        # In place of a run() of whatever class: what it returns is kept.
        self.run = partial(_run_and_keep, self, self.run, before)  # type: ignore[method-assign]
        try:
            super().start()
        except BaseException:
            _put_back(self, before)
            raise

    def run(self) -> Any:
        """What the thread does: call *target* and return what it returns; for subclasses to replace."""
        try:
            if self._target is not None:  # type: ignore[attr-defined]
                return self._target(*self._args, **self._kwargs)  # type: ignore[attr-defined]
        finally:
            del self._target, self._args, self._kwargs  # type: ignore[attr-defined]  # as in the standard library

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or *timeout* seconds. Ctrl-C is heard. RuntimeError in the thread itself."""
        self._check_made()
        super().join(0)  # what is wrong with the call
        patience.often(self._ended_within, timeout)

    def _ended_within(self, seconds: float | None) -> bool:
        super().join(seconds)
        return not self.is_alive()

    def result(self, timeout: float | None = None) -> Any:
        """What its ``run`` returned; raises what it raised. Waits for its end, at most *timeout* seconds.

        Raises multitask.TimeoutError when that was not enough, and CancelledError when it ended because of
        ``cancel()``.
        """
        error = self._end(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del error  # it holds this frame
        return self._value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What its ``run`` raised; None when it returned. Waits and raises like ``result``."""
        error = self._end(timeout)
        if self.cancelled():
            assert error is not None
            raise error
        return error

    def cancel(self) -> bool:
        """Ask it to end; False when it has ended already. Never blocks.

        A thread cannot be stopped by force. Its code looks at ``token``, which it finds by ``current_token()``;
        one that was not started yet will not run at all.
        """
        self._check_made()
        if self._started.is_set() and not self.is_alive():  # type: ignore[attr-defined]
            return False
        self.token.cancel()
        return True

    def cancelled(self) -> bool:
        """Whether it ended because of ``cancel()``: by CancelledError, or before it ran."""
        return isinstance(self._error, CancelledError) and self.token.cancelled() and not self.is_alive()

    def _end(self, timeout: float | None) -> BaseException | None:
        self._check_made()
        with self._counting:
            self._waiting += 1
        try:
            self.join(timeout)
            if self.is_alive():
                raise TimeoutError(f"{self.name} still runs after {timeout} s")
        finally:
            with self._counting:
                self._waiting -= 1
        return self._error

    def _check_made(self) -> None:
        check_made(self, "Thread")


def _put_back(thread: Thread, run: Any) -> None:
    if run is None:
        thread.__dict__.pop("run", None)
    else:
        thread.__dict__["run"] = run


def _run_and_keep(thread: Thread, run: Callable[[], Any], before: Any) -> None:
    """What runs in the new thread."""
    _put_back(thread, before)
    _here.token = thread.token
    try:
        thread.token.check()
        thread._value = run()
    except BaseException as error:
        thread._error = error
        if isinstance(error, CancelledError) and thread.token.cancelled():
            return
        # Last, and not shortened: from here on the standard library reports it.
        with thread._counting:
            heard = thread._waiting > 0
        if not heard:
            raise
    finally:
        del thread, run  # a traceback holds this frame
