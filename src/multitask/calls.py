"""The methods that give work to a pool; shared by a Pool and by what ``Pool.options`` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from multitask._engine.calls import as_args, as_kwargs, as_sequence, check_callbacks, check_options, chunk_size
from multitask._engine.core import CHUNK, STARCHUNK, Core, Options
from multitask._engine.flow import Flow, Plan
from multitask._engine.progress import Progress, open_progress
from multitask._engine.sites import call_name
from multitask._engine.streams import Stream
from multitask.task import Task

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from multitask.pool import Pool

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
        return _finish(_map(self, func, iterable, chunksize, CHUNK, progress))

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        progress: bool | str | None = None,
    ) -> list[T]:
        """``[func(*item) for item in iterable]`` in the workers; otherwise as ``map``."""
        return _finish(_map(self, func, iterable, chunksize, STARCHUNK, progress))

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
        return _map_async(self, func, iterable, chunksize, CHUNK, callback, error_callback, callback_on)

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
        return _map_async(self, func, iterable, chunksize, STARCHUNK, callback, error_callback, callback_on)

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
        return _stream(self, func, iterable, True, chunksize, buffer, progress)

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
        return _stream(self, func, iterable, False, chunksize, buffer, progress)

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
        return _stream(self, fn, iterable, ordered, chunksize, buffer, progress)

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


def _map(
    calls: Calls,
    fn: Callable[..., Any],
    iterable: Iterable[Any],
    chunksize: int | None,
    mode: int,
    progress: bool | str | None = None,
) -> Task[Any]:
    calls._pool._check_running()
    items = as_sequence(iterable)
    size = chunk_size(chunksize, len(items), calls._pool.processes)
    bar = open_progress(progress, call_name(fn), items)
    starts = range(0, len(items), size)
    parent, basket = calls._core.group(len(starts))
    parent._members = basket.members
    parent._label = call_name(fn)
    try:
        for start in starts:
            chunk = items[start : start + size]
            member = calls._submit(fn, (chunk,), None, calls._options, mode, basket)
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
    calls: Calls,
    fn: Callable[..., Any],
    iterable: Iterable[Any],
    chunksize: int | None,
    mode: int,
    callback: Callback | None,
    error_callback: Callback | None,
    loop: AbstractEventLoop | None,
) -> Task[Any]:
    check_callbacks(callback, error_callback)
    task = _map(calls, fn, iterable, chunksize, mode)
    if callback is not None or error_callback is not None:
        calls._pool._attach(task, callback, error_callback, loop)
    return task


def _stream(
    calls: Calls,
    fn: Callable[[Any], Any],
    iterable: Iterable[Any],
    ordered: bool,
    chunksize: int,
    buffer: int | None,
    progress: bool | str | None,
) -> Stream[Any]:
    pool = calls._pool
    pool._check_running()
    plan = Plan(ordered, chunksize, buffer, pool.processes, pool.kind)
    flow = Flow(calls._core, fn, calls._options, iterable, plan)
    bar = open_progress(progress, call_name(fn), iterable)
    pool._flows.add(flow)
    return Stream(flow, pool._engine.callbacks, pool, bar)


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
