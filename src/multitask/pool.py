"""Pool: workers that run functions for you; every method of ``multiprocessing.Pool`` and some more.

What a method does here is what it does in the standard library; the differences are listed in
docs/differences.md. The work is done by an Engine; a Pool holds it, and the engine never holds the Pool, so that
a pool dropped by its last reference is noticed.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from multitask._engine import unread
from multitask._engine.callbacks import attach
from multitask._engine.calls import (
    as_args,
    as_kwargs,
    as_sequence,
    check_callbacks,
    check_options,
    check_pool,
    chunk_size,
)
from multitask._engine.core import CHUNK, STARCHUNK, Core, Options
from multitask._engine.cpus import cpu_count
from multitask._engine.engine import Config, Engine
from multitask._engine.flow import Flow, Flows, Plan
from multitask._engine.notes import note
from multitask._engine.progress import Progress, open_progress
from multitask._engine.sites import call_name
from multitask._engine.streams import Stream
from multitask.errors import PoolClosed
from multitask.executor import Executor
from multitask.task import Task, introduce, task_class

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["Executor", "Pool", "note"]

T = TypeVar("T")
Callback = Callable[[Any], object]


class Calls:
    """The methods that give work to a pool; a Pool has them, and what ``Pool.options`` returns."""

    _pool: Pool
    _core: Core
    _options: Options | None
    _submit: Callable[..., Any]

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Task[T]:
        """Call ``fn(*args, **kwargs)`` in a worker; returns its Task at once.

        Never blocks. What cannot travel to the worker shows in the Task.
        """
        return self._submit(fn, args, kwargs or None, self._options)  # type: ignore[no-any-return]

    def apply(self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> T:
        """Call ``func(*args, **kwds)`` in a worker and return its result; an interrupt cancels it."""
        return _finish(self.apply_async(func, args, kwds))

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        *,
        callback_on: AbstractEventLoop | None = None,
    ) -> Task[T]:
        """Call ``func(*args, **kwds)`` in a worker; returns its Task at once.

        ``callback(result)`` or ``error_callback(error)`` is called once in this process: on the pool's callback
        thread, in order of completion, or in the event loop *callback_on*.
        """
        if type(args) is not tuple:
            args = as_args(func, args)
        if type(kwds) is not dict:
            kwds = as_kwargs(kwds)
        if callback is None and error_callback is None:
            return self._submit(func, args, kwds or None, self._options)  # type: ignore[no-any-return]
        check_callbacks(callback, error_callback)
        task: Task[T] = self._submit(func, args, kwds or None, self._options)
        self._pool._attach(task, callback, error_callback, callback_on)
        return task

    def map(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        progress: bool | str | None = None,
    ) -> list[T]:
        """``[func(item) for item in iterable]`` in the workers, in chunks; blocks, and an interrupt cancels it.

        When calls fail, the error of the first such item is raised, after all have ended.
        """
        return _finish(self._map(func, iterable, chunksize, CHUNK, progress))

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        progress: bool | str | None = None,
    ) -> list[T]:
        """``[func(*item) for item in iterable]`` in the workers; otherwise as ``map``."""
        return _finish(self._map(func, iterable, chunksize, STARCHUNK, progress))

    def map_async(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        *,
        callback_on: AbstractEventLoop | None = None,
    ) -> Task[list[T]]:
        """``map`` that returns a Task at once; the callbacks are those of ``apply_async``, for the whole list."""
        return self._map_async(func, iterable, chunksize, CHUNK, callback, error_callback, callback_on)

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        *,
        callback_on: AbstractEventLoop | None = None,
    ) -> Task[list[T]]:
        """``starmap`` that returns a Task at once."""
        return self._map_async(func, iterable, chunksize, STARCHUNK, callback, error_callback, callback_on)

    def imap(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffer: int | None = None,
        progress: bool | str | None = None,
    ) -> Stream[T]:
        """The results in the order of the items, one by one; *iterable* may be endless.

        At most *buffer* items are pulled ahead of what was yielded. An iterable that is no builtin container is
        read on a thread of its own, so that it may block.
        """
        return self._stream(func, iterable, True, chunksize, buffer, progress)

    def imap_unordered(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffer: int | None = None,
        progress: bool | str | None = None,
    ) -> Stream[T]:
        """The results as they come; otherwise as ``imap``."""
        return self._stream(func, iterable, False, chunksize, buffer, progress)

    def stream(
        self,
        fn: Callable[[Any], T],
        iterable: Iterable[Any],
        *,
        ordered: bool = True,
        buffer: int | None = None,
        chunksize: int = 1,
        progress: bool | str | None = None,
    ) -> Stream[T]:
        """``imap`` or, with ``ordered=False``, ``imap_unordered``."""
        return self._stream(fn, iterable, ordered, chunksize, buffer, progress)

    def options(
        self,
        *,
        priority: int | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        backoff: float | None = None,
        name: str | None = None,
        group: str | None = None,
    ) -> Calls:
        """The same pool for calls with options, so that no option takes a name from the function's keywords.

        ``priority``: greater runs first, under a policy that looks at it. ``timeout``: seconds from the start of
        the call until its worker is killed and the task gets ``TaskTimeout``. ``retries``: further tries after an
        error, a timeout or the death of the worker, ``backoff`` seconds after the first, twice as long after
        each. ``name`` and ``group``: what messages call the task. What is not given stays as it is.
        """
        given = {
            "priority": priority,
            "timeout": timeout,
            "retries": retries,
            "backoff": backoff,
            "name": name,
            "group": group,
        }
        changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        options = (self._options or Options())._replace(**changes)
        check_options(options, self._pool.kind)
        return View(self._pool, options)

    # --- how

    def _map(
        self,
        fn: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        mode: int,
        progress: bool | str | None = None,
    ) -> Task[Any]:
        self._pool._check_running()
        items = as_sequence(iterable)
        size = chunk_size(chunksize, len(items), self._pool.processes)
        bar = open_progress(progress, call_name(fn), items)
        starts = range(0, len(items), size)
        parent, basket = self._core.group(len(starts))
        parent._members = basket.members
        parent._label = call_name(fn)
        try:
            for start in starts:
                chunk = items[start : start + size]
                member = self._submit(fn, (chunk,), None, self._options, mode, basket)
                if bar is not None:
                    _count(bar, member, len(chunk))
        except BaseException:
            # An interrupt, or the pool was closed meanwhile: half a map is of no use to anybody.
            parent.cancel()
            raise
        if bar is not None and not parent._add_hook(lambda _: bar.finish()):
            bar.finish()
        return parent

    def _map_async(
        self,
        fn: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        mode: int,
        callback: Callback | None,
        error_callback: Callback | None,
        loop: AbstractEventLoop | None,
    ) -> Task[Any]:
        check_callbacks(callback, error_callback)
        task = self._map(fn, iterable, chunksize, mode)
        if callback is not None or error_callback is not None:
            self._pool._attach(task, callback, error_callback, loop)
        return task

    def _stream(
        self,
        fn: Callable[[Any], Any],
        iterable: Iterable[Any],
        ordered: bool,
        chunksize: int,
        buffer: int | None,
        progress: bool | str | None,
    ) -> Stream[Any]:
        pool = self._pool
        pool._check_running()
        plan = Plan(ordered, chunksize, buffer, pool.processes, pool.kind)
        flow = Flow(self._core, fn, self._options, iterable, plan)
        bar = open_progress(progress, call_name(fn), iterable)
        pool._flows.add(flow)
        return Stream(flow, pool._engine.callbacks, pool, bar)


class Pool(Calls):
    """Workers that run functions: processes by default, or threads, or the caller itself (``kind="inline"``).

    ``processes=None``: as many as the CPUs this process may use. Leaving ``with Pool()`` normally waits for all
    the work, leaving it on an error stops it.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        kind: str = "process",
        policy: Any = "fifo",
        start_method: str | None = None,
        max_memory: int | None = None,
        name: str | None = None,
    ) -> None:
        check_pool(processes, kind, start_method, initializer, maxtasksperchild, max_memory)
        config = Config(
            processes=cpu_count() if processes is None else processes,
            kind=kind,
            start_method=start_method,
            initializer=initializer,
            initargs=tuple(initargs),
            maxtasksperchild=maxtasksperchild,
            max_memory=max_memory,
            name=name,
            policy=policy,
            task_class=task_class(kind),
        )
        self._start(Engine(config))

    def _start(self, engine: Engine) -> None:
        self._engine = engine
        introduce(engine)
        self._core = engine.core
        self._options = None
        self._submit = engine.core.submit
        self._flows = Flows(engine.close)
        self._state = "running"
        self._dropped = weakref.finalize(self, engine.abandon)
        self._dropped.atexit = False  # at exit the engine's own shutdown is in charge

    @property
    def _pool(self) -> Pool:  # type: ignore[override]  # as an attribute it would be a cycle: see the top
        return self

    @property
    def kind(self) -> str:
        """The kind of worker."""
        return self._engine.kind

    @property
    def processes(self) -> int:
        """How many workers there are to be."""
        return self._engine.processes

    def close(self) -> None:
        """Take no more work; what was given is finished. Does not wait: ``join`` does."""
        if self._state == "running":
            self._state = "closed"
            self._submit = functools.partial(_refuse, self._state)
            self._flows.close()

    def terminate(self) -> None:
        """Stop now: waiting and running tasks are cancelled, workers ended. Does not wait: ``join`` does."""
        if self._state != "terminated":
            self._state = "terminated"
            self._submit = functools.partial(_refuse, self._state)
            self._flows.stop("terminated")
            self._engine.terminate()

    def join(self) -> None:
        """Wait until all the work and all callbacks are done and the workers have ended; after ``close`` or
        ``terminate``. Failures that nobody asked for are then shown on stderr."""
        if self._state == "running":
            raise ValueError("Pool is still running: call close() or terminate() before join()")
        if self._state == "closed":
            self._flows.drain()
        self._engine.join()
        # A callback that blocks must not hold up the end of a pool that is being stopped.
        self._engine.callbacks.drain(1.0 if self._state == "terminated" else None)
        self._flows.excuse()
        unread.report(self._core)
        self._dropped.detach()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        try:
            if exc_type is None:
                self.close()
                # Builtin containers have been read to their end by close(); other iterators may be endless.
                self._flows.stop("closed")
                self.join()
        finally:
            # On an error, or an interrupt of the wait: the work stops.
            if exc_type is not None or self._dropped.alive:
                self.terminate()
                self.join()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        engine = self._engine
        name = f" {engine.config.name!r}" if engine.config.name else ""
        if self._state == "terminated":
            return f"<Pool{name} {engine.kind} terminated>"
        waiting, _, busy = self._core.counts()
        closed = " closed," if self._state == "closed" else ""
        return f"<Pool{name} {engine.kind}{closed} {busy}/{engine.processes} busy, {waiting} waiting>"

    def _check_running(self) -> None:
        if self._state != "running":
            _refuse(self._state)

    def _attach(
        self,
        task: Task[Any],
        callback: Callback | None,
        error_callback: Callback | None,
        loop: AbstractEventLoop | None,
    ) -> None:
        attach(self._engine.callbacks, task, callback, error_callback, loop)


class View(Calls):
    """A pool seen with other options; see ``Pool.options``."""

    def __init__(self, pool: Pool, options: Options) -> None:
        self._pool = pool
        self._core = pool._core
        self._options = options

    def _submit(self, *args: Any) -> Any:
        return self._pool._submit(*args)

    def __repr__(self) -> str:
        return f"<{self._pool!r} with {self._options}>"


def _refuse(state: str, *_: object) -> Any:
    raise PoolClosed("Pool not running", why=f"this pool was {state}", fix="give it work before that")


def _finish(task: Task[T]) -> T:
    """The result of *task*; the caller is its only reader, so an interrupted wait cancels it."""
    try:
        if not task._settled:
            task._core.wait(task, None)
    except BaseException:
        task.cancel()
        raise
    return task.result()


def _count(bar: Progress, member: Task[Any], items: int) -> None:
    if not member._add_hook(lambda _: bar.advance(items)):
        bar.advance(items)
