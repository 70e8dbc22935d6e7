"""No workers at all: a call runs in the caller's thread, inside ``submit``, so that a debugger stops in it.

Rule: a Task is settled when ``submit`` returns it. A Ctrl-C during the call ends the call and goes on to the
caller, as it would have without a pool; a KeyboardInterrupt that the call itself raises is its result.
There is no manager thread; the second group of the interface is here so that a pool need not ask.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from multitask._engine import clock
from multitask._engine.core import CALL, CANCELLED, FINISHED, GONE, RUNNING, TAKEN_BACK, Event, Options, Removed
from multitask._engine.ledger import NEW, STARTED
from multitask._engine.taskbase import Basket, TaskBase, caller, cancelled
from multitask._engine.unread import Failures
from multitask._engine.workers.calls import perform, was_interrupted
from multitask.errors import NotSupported, PoolClosed


class InlineCore:
    """The core of ``kind="inline"``."""

    encoder = None

    def __init__(self, *, task_type: type[Any] = TaskBase, callbacks: Any = None) -> None:
        self.callbacks = callbacks
        self.closed = False
        self.broken: BaseException | None = None
        self.failures: list[Any] = [] if callbacks is None else Failures(callbacks)
        self._task_type = task_type
        self._lock = threading.RLock()  # settling; several threads may submit
        self._running: dict[Any, float] = {}  # task -> start
        self._posts: queue.SimpleQueue[Event] = queue.SimpleQueue()

    @property
    def unfinished(self) -> int:
        """Calls that run right now, in other threads or further up in this one."""
        return len(self._running)

    def submit(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any] | None,
        options: Options | None = None,
        mode: int = CALL,
        basket: Any = None,
    ) -> Any:
        """Run the call here and now; returns its settled Task."""
        if self.closed:
            raise PoolClosed("the pool is closed and takes no more work", fix="submit before close() or leaving `with`")
        if options is not None and options.timeout is not None:
            raise NotSupported(
                "an inline call cannot have a timeout",
                why="it runs in the thread that would have to stop it",
                fix="use kind='process', whose workers can be killed",
            )
        task = self._task_type(self, fn, options, mode, basket, caller())
        if basket is not None and basket.parent is not None:
            basket.members.append(task)
        self._running[task] = clock.monotonic()
        task._place = STARTED
        try:
            ok, value = self._try(mode, fn, args, kwargs, options)
        finally:
            self._running.pop(task, None)
        self.settle(task, FINISHED, ok, value)
        if not ok and was_interrupted(value):
            task._asked = True
            raise value
        return task

    def _try(self, mode: int, fn: Any, args: Any, kwargs: Any, options: Options | None) -> tuple[bool, Any]:
        tries = 1 if options is None else 1 + options.retries
        for number in range(tries):
            ok, value = perform(mode, fn, args, kwargs)
            if ok or was_interrupted(value) or number == tries - 1:
                break
            if options is not None and options.backoff > 0:
                time.sleep(options.backoff * 2**number)
        return ok, value

    def group(self, total: int) -> tuple[Any, Basket]:
        """A task that is settled when *total* members of its basket are."""
        parent = self._task_type(self, None)
        parent._basket = basket = Basket(self, total, parent)
        if total == 0:
            self.settle(parent, FINISHED, True, basket)
        return parent, basket

    def withdraw(self, task: Any) -> int:
        """Only the parent of a group can still be pending and not running."""
        if task._settled:
            return GONE
        if task._place != NEW:
            return RUNNING
        self.settle(task, CANCELLED, False, cancelled())
        return TAKEN_BACK

    def wait(self, target: Any, timeout: float | None) -> bool:
        """Wait for a Task or a Basket that other threads complete."""
        return bool(target._wait(timeout))

    def post(self, obj: object) -> None:
        """An event for ``attend``, if somebody attends."""
        self._posts.put(("post", obj))

    def running(self, task: Any) -> bool:
        return task in self._running

    def counts(self) -> tuple[int, int, int]:
        running = len(self._running)
        return 0, running, running

    def attend(self, timeout: float | None) -> list[Event]:
        """Posts, as far as there are any."""
        try:
            events = [self._posts.get(timeout=timeout) if timeout is None or timeout > 0 else self._posts.get_nowait()]
        except queue.Empty:
            return []
        while not self._posts.empty():
            events.append(self._posts.get())
        return events

    def settle(self, task: Any, status: int, ok: bool, value: object) -> None:
        """Settle *task* unless it is settled."""
        with self._lock:
            task._settle(status, ok, value, isinstance(value, Basket))

    def started(self, task: Any) -> float | None:
        return self._running.get(task)

    def condemn(self, task: Any) -> int | None:
        """None: there is no worker to be killed."""
        return None

    def close(self) -> None:
        """Take no more work."""
        self.closed = True

    def dispose(self) -> None:
        """Nothing to give back."""
        self.closed = True

    def pending(self) -> list[Any]:
        """Nothing waits; what runs cannot be stopped."""
        return []

    # There are no workers: nothing to watch, nobody to add.

    def watch(self, fd: int, wid: int) -> None: ...

    def unwatch(self, fd: int) -> None: ...

    def add_worker(self, wid: int, channel: Any) -> None: ...

    def remove_worker(self, wid: int) -> Removed:
        return Removed(None, None, None, None, 0)

    def retire(self, wid: int) -> None: ...

    def requeue(self, task: Any, front: bool = False) -> None: ...
