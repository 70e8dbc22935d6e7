"""Pool: workers that run functions for you; every method of ``multiprocessing.Pool`` and some more.

What a method does here is what it does in the standard library; the differences are listed in
docs/differences.md. The work is done by an Engine; a Pool holds it, and the engine never holds the Pool, so that
a pool dropped by its last reference is noticed.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from multitask._engine.callbacks import attach
from multitask._engine.calls import check_pool
from multitask._engine.cpus import cpu_count
from multitask._engine.engine import Config, Engine
from multitask._engine.flow import Flows
from multitask._engine.notes import note
from multitask.calls import Callback, Calls
from multitask.errors import PoolClosed
from multitask.executor import Executor
from multitask.task import Task, introduce, task_class

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["Calls", "Executor", "Pool", "note"]


class Pool(Calls):
    """Workers that run functions: processes by default, or threads, or the caller itself (``kind="inline"``).

    ``processes=None``: as many as the CPUs this process may use. Leaving ``with Pool()`` normally waits for all
    the work, leaving it on an error stops it. *context* is taken for its start method only.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        kind: str = "process",
        policy: Any = "fifo",
        start_method: str | None = None,
        max_memory: int | None = None,
        name: str | None = None,
    ) -> None:
        if context is not None and start_method is None:
            start_method = context.get_start_method()
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
        check_pool(config)
        self._start(Engine(config))

    def _start(self, engine: Engine) -> None:
        self._engine = engine
        introduce(engine)
        self._core = engine.core
        self._options = None
        self._submit = engine.core.submit
        self._flows = engine.flows = Flows(engine.close)
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
        self._engine.report()
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


def _refuse(state: str, *_: object) -> Any:
    raise PoolClosed("Pool not running", why=f"this pool was {state}", fix="give it work before that")
