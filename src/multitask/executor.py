"""Executor: ``concurrent.futures.Executor`` on this library's workers.

Its tasks keep the standard library's ``cancel()`` (False while running) and have ``kill()``.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from multitask._engine import clock
from multitask._engine.calls import check_pool
from multitask._engine.core import CALL, STARCHUNK
from multitask._engine.cpus import cpu_count
from multitask._engine.engine import Config, Engine
from multitask.errors import NotSupported, PoolClosed
from multitask.task import ExecutorTask, Task, introduce, task_class

if TYPE_CHECKING:
    from multitask._engine.callbacks import Callbacks

__all__ = ["Executor"]

T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """Workers behind ``concurrent.futures``' names: processes by default, or threads, or the caller itself.

    ``mp_context`` is taken for its start method only, ``thread_name_prefix`` is another name for ``name``.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        kind: str = "process",
        policy: Any = "fifo",
        start_method: str | None = None,
        max_memory: int | None = None,
        name: str | None = None,
        thread_name_prefix: str = "",
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        if mp_context is not None and start_method is None:
            start_method = mp_context.get_start_method()
        config = Config(
            processes=cpu_count() if max_workers is None else max_workers,
            kind=kind,
            start_method=start_method,
            initializer=initializer,
            initargs=tuple(initargs),
            maxtasksperchild=max_tasks_per_child,
            max_memory=max_memory,
            name=name or thread_name_prefix or None,
            policy=policy,
            task_class=task_class(kind, executor=True),
        )
        check_pool(config)
        self._start(Engine(config))

    def _start(self, engine: Engine) -> None:
        self._engine = engine
        introduce(engine)
        self._core = engine.core
        self._tasks = _Open()
        self._shutdown = False
        self._dropped = weakref.finalize(self, engine.abandon)
        self._dropped.atexit = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> ExecutorTask[T]:
        """Call ``fn(*args, **kwargs)`` in a worker; returns its task at once. RuntimeError after ``shutdown``."""
        return self._submit(fn, args, kwargs or None)  # type: ignore[no-any-return]

    def _submit(self, fn: Any, args: Any, kwargs: Any, mode: int = CALL) -> Any:
        if self._shutdown:
            raise PoolClosed("cannot schedule new futures after shutdown")
        task = self._core.submit(fn, args, kwargs, None, mode)
        self._tasks.add(task)
        return task

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """``map(fn, *iterables)`` in the workers, in order.

        *timeout*: seconds from this call after which an item that is not there raises ``TimeoutError``.
        *buffersize*: submit only so many calls ahead of what was yielded; None reads the iterables at once.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        until = None if timeout is None else clock.monotonic() + timeout
        calls = zip(*iterables)  # noqa: B905  (map ends with the shortest)
        if chunksize == 1:
            todo = (self._submit(fn, args, None) for args in calls)
        else:
            chunks = iter(lambda: list(itertools.islice(calls, chunksize)), [])
            todo = (self._submit(fn, (chunk,), None, STARCHUNK) for chunk in chunks)
        first = collections.deque(todo if buffersize is None else itertools.islice(todo, buffersize))
        return _Results(self._engine.callbacks, first, _results(first, todo, until, chunksize > 1))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; those submitted are finished, or with *cancel_futures* those that run are.

        *wait* blocks until then.
        """
        first, self._shutdown = not self._shutdown, True
        if cancel_futures:
            for task in self._tasks.unsettled():
                self._core.withdraw(task)
        if first:
            self._engine.close()
        if wait:
            self._engine.join()
            self._engine.callbacks.drain()
            self._end()

    def terminate_workers(self) -> None:
        """Stop now: what waits and what runs is cancelled, the worker processes and what they started are killed.

        Returns when they have ended. Raises NotSupported where the workers are no processes.
        """
        if self._engine.kind != "process":
            raise NotSupported(
                f"workers of kind={self._engine.kind!r} cannot be killed",
                why="they live in this process",
                fix="use kind='process', or shutdown(cancel_futures=True)",
            )
        self._stop()

    kill_workers = terminate_workers  # a worker has nothing to tidy up: both kill it

    def __exit__(self, exc_type: Any, exc: Any, traceback: Any) -> None:
        try:
            if exc_type is None or not issubclass(exc_type, KeyboardInterrupt):
                self.shutdown(wait=True)
        finally:
            # Ctrl-C, here or in the block: the standard library's workers get it too, which ends their calls.
            if self._dropped.alive:
                self._stop()

    def _stop(self) -> None:
        self._shutdown = True
        self._engine.terminate()
        self._engine.join()
        self._engine.callbacks.drain(1.0)
        self._end()

    def _end(self) -> None:
        self._engine.report()
        self._dropped.detach()

    def __repr__(self) -> str:
        engine = self._engine
        waiting, _, busy = self._core.counts()
        state = " shut down," if self._shutdown else ""
        return f"<Executor {engine.kind}{state} {busy}/{engine.processes} busy, {waiting} waiting>"


class _Open:
    """The tasks that may have to be cancelled at shutdown, held weakly and cleared out as they settle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._references: list[weakref.ref[Task[Any]]] = []
        self._limit = 1000

    def add(self, task: Task[Any]) -> None:
        self._references.append(weakref.ref(task))
        # Not waited for: this may be a finalizer on the thread that is clearing out.
        if len(self._references) > self._limit and self._lock.acquire(blocking=False):
            try:
                self._clear_out()
            finally:
                self._lock.release()

    def _clear_out(self) -> None:
        count = len(self._references)
        kept = [reference for reference in self._references[:count] if _is_open(reference())]
        self._references[:count] = kept  # what others append meanwhile stands behind
        self._limit = 2 * len(kept) + 1000

    def unsettled(self) -> list[Task[Any]]:
        """In order of submission."""
        with self._lock:
            tasks = [reference() for reference in self._references]
        return [task for task in tasks if task is not None and not task._settled]


def _is_open(task: Task[Any] | None) -> bool:
    return task is not None and not task._settled


class _Results(Iterator[Any]):
    """The iterator of ``map``; ``close()`` cancels what was not taken, and so does dropping it."""

    def __init__(
        self, callbacks: Callbacks, tasks: collections.deque[Task[Any]], values: Generator[Any, None, None]
    ) -> None:
        self._callbacks = callbacks
        self._tasks = tasks
        self._values = values
        self._maker = os.getpid()

    def __next__(self) -> Any:
        return next(self._values)

    def close(self) -> None:
        """Cancel the calls whose results were not taken and still wait; nothing more is submitted."""
        self._values.close()
        _cancel(self._tasks)

    def __del__(self) -> None:
        tasks = self.__dict__.get("_tasks")
        # In a forked child the tasks are the parent's.
        if tasks and os.getpid() == self._maker:
            # A finalizer may run in the middle of anything, under any lock: another thread does the work.
            self._callbacks.later(functools.partial(_cancel, tasks))


def _results(
    tasks: collections.deque[Task[Any]], todo: Iterator[Task[Any]], until: float | None, chunks: bool
) -> Generator[Any, None, None]:
    """Yield the results of *tasks*, taking another one from *todo* for each; cancel what is left after an error."""
    try:
        while tasks:
            left = None if until is None else max(until - clock.monotonic(), 0.0)
            # Nothing that was yielded is still held here while the reader has it.
            if not chunks:
                yield _first(tasks, left)
            else:
                values = _first(tasks, left)
                values.reverse()
                while values:
                    yield values.pop()
            tasks.extend(itertools.islice(todo, 1))
    except GeneratorExit:  # whoever closes it or drops it sees to the rest
        raise
    except BaseException:
        _cancel(tasks)
        raise


def _cancel(tasks: collections.deque[Task[Any]]) -> None:
    while tasks:
        tasks.popleft().cancel()


def _first(tasks: collections.deque[Task[Any]], timeout: float | None) -> Any:
    value = tasks[0].result(timeout)
    tasks.popleft()
    return value
