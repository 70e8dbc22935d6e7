"""Runs users' callbacks: one thread per pool, in the process that submitted, in order of completion.

    settle (any thread) ── put(task, hooks) ──► line ──► callback thread ──► hook(task) …
                                                              └── callback_on=loop ──► loop.call_soon_threadsafe

Rule: nothing of the engine's runs on this thread, so a callback that blocks, raises, joins its pool or waits for
another task holds up later callbacks at most.
The thread starts with the first callback and ends after ``close()``; where none can be started, ``drain`` serves.
``put`` and ``later`` never block and may be called from a finalizer (``queue.SimpleQueue.put`` is reentrant).
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from multitask._engine import patience
from multitask._engine.core import PENDING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from multitask.task import Task

Hook = Callable[[Any], object]

_here = threading.local()


def inside() -> bool:
    """Whether this thread runs callbacks (of any pool)."""
    return getattr(_here, "inside", False)


def report(error: BaseException, fn: object, task: object) -> None:
    """Show an error that a callback raised: to ``sys.unraisablehook`` if somebody has set one, on stderr otherwise."""
    what = f"A callback of {task!r} failed"
    if sys.unraisablehook is not sys.__unraisablehook__:
        seen = SimpleNamespace(
            exc_type=type(error), exc_value=error, exc_traceback=error.__traceback__, err_msg=what, object=fn
        )
        # A hook that fails itself must not end the callback thread.
        with contextlib.suppress(Exception):
            sys.unraisablehook(seen)
            return
    # The built-in hook takes no object but the interpreter's own.
    if sys.stderr is not None:
        sys.stderr.write(f"{what}: {fn!r}\n{''.join(traceback.format_exception(error))}")
        sys.stderr.flush()


class Callbacks:
    """The line of hooks to run and the thread that runs them."""

    def __init__(self, name: str = "pool") -> None:
        self._name = name
        self._line: queue.SimpleQueue[tuple[object, Iterable[Hook]] | None] = queue.SimpleQueue()
        self._lock = threading.RLock()  # guards starting the thread; reentrant because of finalizers
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, task: object, hooks: Iterable[Hook]) -> None:
        """Have each of *hooks* called with *task*, after all that were put before."""
        self._line.put((task, hooks))
        # A thread started while the interpreter ends would never begin, and starting it never return.
        if self._thread is None and not sys.is_finalizing():
            # Without a thread to be had now, the next put tries again.
            with contextlib.suppress(RuntimeError):
                self.ensure()

    def later(self, call: Callable[[], object]) -> None:
        """Have *call* called on the thread; for finalizers, which may run in the middle of anything."""
        self.put(None, (lambda _: call(),))

    def ensure(self) -> None:
        """Start the thread unless it runs."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=f"multitask-callbacks-{self._name}", daemon=True)
            with self._lock:
                # Nothing is allocated between the look and the assignment, so no finalizer comes in between.
                if self._thread is not None:
                    return
                self._thread = thread
            try:
                thread.start()
            except BaseException:
                self._thread = None
                raise

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until everything put so far has run; False when *timeout* seconds did not do.

        True at once on the callback thread itself: a callback may join its pool.
        """
        if inside() or (self._thread is None and self._line.empty()):
            return True
        gate = _Gate()
        self.put(None, (lambda _: gate.open(),))
        thread = self._thread
        if thread is None:
            self._run_here()
        if not gate.wait(timeout):
            return False
        if self._closed and thread is not None:
            thread.join(timeout)  # on its way out
        return True

    def close(self) -> None:
        """End the thread once the line is empty; what is put later still runs."""
        self._closed = True
        if self._thread is not None:
            self._line.put(None)  # wakes it, for a look at _closed

    def disown(self) -> None:
        """In a child of os.fork(): the thread stayed with the parent, and so did what it has to do."""
        self._line = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._thread = None

    def _run_here(self) -> None:
        """Serve the line without a thread: 3.12 starts none once the program has begun to end."""
        _here.inside = True
        try:
            while self._thread is None:
                item = self._line.get(block=False)
                if item is not None:
                    _serve(*item)
        except queue.Empty:
            pass
        finally:
            _here.inside = False

    def _run(self) -> None:
        _here.inside = True
        while True:
            try:
                item = self._line.get(block=not self._closed)
            except queue.Empty:
                if self._leave():
                    return
                continue
            if item is not None:
                _serve(*item)
            item = None  # would keep the last task and its result alive while this thread sleeps

    def _leave(self) -> bool:
        # First say that nobody serves the line, then look at it again: the other order loses what is put in between.
        me, self._thread = self._thread, None
        if self._line.empty():
            return True
        with self._lock:
            if self._thread is not None:
                return True
            self._thread = me
        return False


def _serve(task: object, hooks: Iterable[Hook]) -> None:
    for hook in hooks:
        _call(hook, task)


def _call(hook: Hook, task: object) -> None:
    try:
        hook(task)
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: they were raised for this hook alone
        report(error, hook, task)


class _Gate:
    """Shut until somebody opens it; a lighter Event."""

    __slots__ = ("_lock", "is_open")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.is_open = False

    def open(self) -> None:
        if not self.is_open:
            self.is_open = True
            self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_open and patience.acquire(self._lock, timeout):
            self._lock.release()
        return self.is_open


class Owed:
    """The promise that ``get()`` of a task with callbacks returns after they have run, as in multiprocessing."""

    __slots__ = ("_gate",)

    def __init__(self) -> None:
        self._gate = _Gate()

    def pay(self) -> None:
        self._gate.open()

    def paid(self) -> bool:
        """Whether the callbacks have run. True on a callback thread: one that waited for another would never end."""
        return self._gate.is_open or inside()

    def wait(self, task: Task[Any], timeout: float | None) -> None:
        """Wait for the callbacks of *task*; on a callback thread only for the task."""
        if not inside():
            self._gate.wait(timeout)
        elif task._status == PENDING:
            task._core.wait(task, timeout)


class _Deliver:
    """The hook that gives a task's outcome to ``callback`` or ``error_callback``."""

    __slots__ = ("callback", "error_callback", "loop", "owed")

    def __init__(
        self,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        loop: AbstractEventLoop | None,
        owed: Owed,
    ) -> None:
        self.callback = callback
        self.error_callback = error_callback
        self.loop = loop
        self.owed = owed

    def __call__(self, task: Task[Any]) -> None:
        try:
            asked = task._asked
            ok, value = task._outcome()
            call = self.callback if ok else self.error_callback
            if call is None:
                if not ok:
                    task._asked = asked  # nobody has heard of this failure
            elif self.loop is None:
                call(value)
            else:
                self.loop.call_soon_threadsafe(call, value)
        finally:
            self.owed.pay()

    def __repr__(self) -> str:
        return repr(self.callback if self.error_callback is None else self.error_callback)


def attach(
    callbacks: Callbacks,
    task: Task[Any],
    callback: Callable[[Any], object] | None,
    error_callback: Callable[[BaseException], object] | None,
    loop: AbstractEventLoop | None,
) -> None:
    """Have the outcome of *task* given to its callback, once, on the callback thread or in *loop*."""
    owed = task._owed = Owed()
    hook = _Deliver(callback, error_callback, loop, owed)
    if not task._add_hook(hook):
        callbacks.put(task, (hook,))
