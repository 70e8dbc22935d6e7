"""The core that needs nothing native: pipes to worker processes, plain objects to worker threads.

    submit ── append ──► inbox ── drain ──► Ledger ── feed ──► PipeLanes ══ pipes ══► worker processes
    (any thread, no lock)  (manager, or a worker   └── take ──► ThreadLanes ────────► worker threads
                            thread that looks for work)

Rules.
* ``_lock`` guards the ledger and all settling. It is held briefly, and no code of the user's runs under it.
* Signals interrupt the main thread between any two steps, and the handler may raise, so what callers do changes the
  core in one step, after which the core is whole: ``submit`` appends to the inbox, ``withdraw`` stores one verdict
  in the task (under the lock, calling nothing there). What has to follow is done by the manager, and
  doing it twice is harmless. A handler that strikes between the append and the wake-up rings the bell.
* ``withdraw`` in the main thread lets the manager settle the task and waits for that, for the same reason.
* A task that reaches the inbox after the manager has left (``dispose``) is settled by whoever put it there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from multitask._engine import clock
from multitask._engine.bell import Sleeper
from multitask._engine.core import (
    CALL,
    CANCELLED,
    FINISHED,
    GONE,
    PENDING,
    RUNNING,
    TAKEN_BACK,
    Event,
    Options,
    Removed,
)
from multitask._engine.ledger import ASIDE, DONE, NEW, STARTED, WAITING, WITHDRAWN, Ledger
from multitask._engine.taskbase import Basket, TaskBase, caller, cancelled
from multitask._engine.threadlanes import ThreadLanes
from multitask._engine.unread import Failures
from multitask.errors import PoolClosed
from multitask.policies import FIFO, Policy

if TYPE_CHECKING:
    from multitask._engine.wire import Encoder


def _inherited() -> PoolClosed:
    return PoolClosed(
        "this pool belongs to the parent process",
        why="it was inherited through os.fork(); its workers answer to the parent only",
        fix="make a pool of its own in the child",
    )


BATCH = 1024  # tasks that enter the ledger under one hold of the lock


class PortableCore:
    """The core of worker threads (``encoder=None``), and of worker processes without the native one."""

    def __init__(
        self,
        *,
        encoder: Encoder | None = None,
        policy: Policy | None = None,
        callbacks: Any = None,
        task_type: type[Any] = TaskBase,
    ) -> None:
        self.encoder = encoder
        self.callbacks = callbacks
        self.closed = False
        self.broken: BaseException | None = None
        self.failures: list[Any] = [] if callbacks is None else Failures(callbacks)
        self._task_type = task_type
        self._policy = None if policy is None or isinstance(policy, FIFO) else policy
        self._lock = threading.RLock()
        self._ledger: Ledger[Any] = Ledger(ordered=self._policy is not None)
        self._inbox: deque[Any] = deque()
        self._chores: deque[Any] = deque()  # withdrawn tasks that the manager is to settle
        self._events: deque[Event] = deque()
        self._entered = 0  # tasks that have left the inbox
        self._done = 0  # tasks that were settled
        self._sleeper = Sleeper()
        self._sleeping = False
        self._over = False
        self._inherited = False  # this is a child of the process that owns the workers
        self._manager: int | None = None
        self._lanes: Any = self._make_lanes()

    def _make_lanes(self) -> Any:
        if self.encoder is None:
            return ThreadLanes(self)
        from multitask._engine.pipelanes import PipeLanes  # a pool of threads needs none of it

        return PipeLanes(self, self.encoder)

    # --- any thread

    @property
    def unfinished(self) -> int:
        """Tasks that were submitted and are not settled. May be a little too high while another thread works."""
        done = self._done
        waiting = len(self._inbox)  # before _entered: a task that moves in between counts twice, not never
        return max(0, waiting + self._entered - done)

    def submit(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any] | None,
        options: Options | None = None,
        mode: int = CALL,
        basket: Any = None,
    ) -> Any:
        """Put a call into the line; returns its Task, settled already when the call cannot be encoded."""
        if self.broken is not None:
            raise self.broken.with_traceback(None)
        if self.closed:
            if self._inherited:
                raise _inherited()
            raise PoolClosed("the pool is closed and takes no more work", fix="submit before close() or leaving `with`")
        task = self._task_type(self, fn, options, mode, basket, caller())
        if self._policy is not None:
            task._key = self._policy.key(options, clock.monotonic())
        self._lanes.load(task, fn, args, kwargs)
        if basket is not None and basket.parent is not None:
            basket.members.append(task)
        try:
            self._inbox.append(task)
            self._lanes.wake()
        except BaseException:
            self._sleeper.ring()
            raise
        if self._over:
            self._sweep()
        return task

    def group(self, total: int) -> tuple[Any, Basket]:
        """A task that is settled when *total* members of its basket are."""
        parent = self._task_type(self, None)
        parent._basket = basket = Basket(self, total, parent)
        if total == 0:
            parent._value, parent._ok, parent._status = [], True, FINISHED
        return parent, basket

    def withdraw(self, task: Any) -> int:
        """Take a task back that has not started; see the rules above."""
        answer = GONE
        try:
            with self._lock:
                # No calls in here: a signal handler would run inside the lock.
                place = task._place
                if task._status == PENDING:
                    if place == STARTED:
                        answer = RUNNING
                    elif place in (NEW, WAITING, ASIDE):
                        task._place = WITHDRAWN
                        answer = TAKEN_BACK
            if answer != RUNNING and task._status == PENDING:
                self._settle_withdrawn(task)
        except BaseException:
            self._chores.append(task)
            self._sleeper.ring()
            raise
        self._let_go(task)
        return answer

    def _settle_withdrawn(self, task: Any) -> None:
        me = threading.get_ident()
        here = self._manager is None or me == self._manager or me != threading.main_thread().ident
        if here or self._lock._is_owned():  # type: ignore[attr-defined]
            self._cancel(task)
            return
        self._chores.append(task)
        self._ring()
        if self._over:
            self._sweep()
        task._wait(None)

    def _cancel(self, task: Any) -> None:
        """Settle a task whose verdict is that it was withdrawn."""
        with self._lock:
            if task._place == WITHDRAWN:
                self.settle(task, CANCELLED, False, cancelled())
        self._let_go(task)

    def _let_go(self, task: Any) -> None:
        """Drop what a worker needed for a settled task: not under the lock, for that may run code of the user's."""
        # A worker that has started it may be about to look.
        if task._settled and task._place != STARTED and not self._lock._is_owned():  # type: ignore[attr-defined]
            task._load = None

    def wait(self, target: Any, timeout: float | None) -> bool:
        """Sleep until a Task is settled or a Basket has something; False when the time runs out first."""
        if self._inherited and not target._wait(0):
            raise _inherited()
        return bool(target._wait(timeout))

    def post(self, obj: object) -> None:
        """Hand *obj* to the manager."""
        self._tell(("post", obj))

    def running(self, task: Any) -> bool:
        """Whether a worker has been given the task and has not answered."""
        return bool(task._place == STARTED and task._status == PENDING)

    def counts(self) -> tuple[int, int, int]:
        """(waiting, held by workers, busy workers)."""
        waiting, held, busy = self._ledger.counts()
        return waiting + len(self._inbox), held, busy

    # --- the manager thread

    def attend(self, timeout: float | None) -> list[Event]:
        """Settle what has come, feed the workers; sleeps until there is an event or *timeout* is over.

        ("idle",) says that the core is closed and its last task was settled.
        """
        self._manager = threading.get_ident()
        until = None if timeout is None else clock.monotonic() + timeout
        while True:
            self._gather()
            left = None if until is None else until - clock.monotonic()
            self._sleeping = True
            # Say that we sleep before the last look: the other order loses what arrives in between.
            if self._events or self._chores or self._lanes.pressing():
                left = 0.0
            self._lanes.turn(left)
            self._sleeping = False
            self._gather()
            if self._events or (left is not None and left <= 0 and self._passed(until)):
                events = []
                while self._events:
                    events.append(self._events.popleft())
                return events

    @staticmethod
    def _passed(until: float | None) -> bool:
        return until is not None and clock.monotonic() >= until

    def _gather(self) -> None:
        while self._chores:
            self._cancel(self._chores.popleft())
        self._lanes.gather()

    def watch(self, fd: int, wid: int) -> None:
        """When *fd* becomes readable, worker *wid* has ended. Negative: nothing to watch."""
        if fd >= 0:
            self._sleeper.add(fd, 1, ("exit", wid, fd))
            self._lanes.watched.add(wid)

    def unwatch(self, fd: int) -> None:
        self._sleeper.drop(fd)

    def add_worker(self, wid: int, channel: Any) -> None:
        """A worker is being started; it gets tasks once it has said hello."""
        with self._lock:
            self._ledger.add_worker(wid)
        self._lanes.add(wid, channel)

    def remove_worker(self, wid: int) -> Removed:
        """The worker has ended. A reply that it sent before still counts."""
        return self._lanes.remove(wid)  # type: ignore[no-any-return]

    def retire(self, wid: int) -> None:
        """Let the worker end when it has finished what it does."""
        with self._lock:
            self._ledger.retire(wid)
        self._lanes.stop(wid)

    def requeue(self, task: Any, front: bool = False) -> None:
        """A task that failed or was lost waits again, unless it was withdrawn or settled meanwhile."""
        with self._lock:
            if not task._settled and not self._ledger.requeue(task, front):
                self._cancel(task)
        self._lanes.wake()

    def settle(self, task: Any, status: int, ok: bool, value: object) -> None:
        """Settle *task* unless it is settled. A worker that runs it stays busy until it answers or ends."""
        with self._lock:
            if task._place != STARTED:
                self._ledger.settled(task)
            if task._settle(status, ok, value, isinstance(value, Basket) or self._lanes.is_reply(value)):
                self._count(task)
        self._let_go(task)

    def started(self, task: Any) -> float | None:
        """When the call started (before its worker said so: when it was sent); None when it does not run."""
        return self._lanes.started(task) if self.running(task) else None

    def condemn(self, task: Any) -> int | None:
        """The worker that runs *task* gets nothing more."""
        with self._lock:
            return None if task._settled else self._ledger.condemn(task)

    def close(self) -> None:
        """Take no more work."""
        self.closed = True
        if not self.unfinished:
            self._tell(("idle",))

    def dispose(self) -> None:
        """The manager leaves: give back what the core owns. What is still unfinished is cancelled."""
        self.closed = True
        self._over = True
        self._sweep()
        self._lanes.close()
        self._sleeper.close()

    def pending(self) -> list[Any]:
        """Every task that is not settled, parents of groups excepted."""
        with self._lock:
            tasks = [*self._ledger.pending(), *self._inbox]
        return [task for task in tasks if not task._settled]

    def disown(self) -> None:
        """This is a child of os.fork(): nothing that the core owns is of this process."""
        self.closed = self._over = self._inherited = True
        # Threads that are not here may have held the locks.
        self._lock = threading.RLock()
        self._sleeper.disown()
        self._lanes.disown()

    # --- inside

    def _ring(self) -> None:
        if self._sleeping:
            self._sleeper.ring()

    def _tell(self, event: Event) -> None:
        try:
            self._events.append(event)
            self._ring()
        except BaseException:
            self._sleeper.ring()
            raise

    def _drain(self, limit: int = BATCH) -> None:
        """Tasks from the inbox into the ledger; under the lock."""
        inbox = self._inbox
        for _ in range(min(limit, len(inbox))):
            task = inbox.popleft()
            self._entered += 1
            if task._status == PENDING:
                if not self._ledger.submit(task):
                    self._cancel(task)
            elif task._place == NEW:  # could not be encoded
                task._place = DONE
                task._after_settling()
                self._count(task)

    def _finish_orphans(self) -> None:
        """Settle withdrawn tasks whose caller was interrupted before it could say so; under the lock."""
        while self._ledger.orphans:
            self._cancel(self._ledger.orphans.pop())

    def _replied(self, wid: int, task: Any, ok: bool, value: Any, raw: bool) -> None:
        """A worker's answer; under the lock."""
        if task._settled:
            self._ledger.settled(task)
        elif not ok and task._options is not None and task._options.retries > 0:
            self._ledger.set_aside(task)
            self._tell(("failed", task, wid, value))
        else:
            self._ledger.settled(task)
            if task._settle(FINISHED, ok, value, raw):
                self._count(task)

    def _count(self, task: Any) -> None:
        basket = task._basket
        if basket is not None and basket.parent is task:
            return
        self._done += 1
        if self.closed and not self.unfinished:
            self._tell(("idle",))

    def _sweep(self) -> None:
        swept: list[Any] = []
        with self._lock:
            while self._inbox or self._chores:
                swept += self._chores
                self._chores.clear()
                self._drain()
            while (task := self._ledger.line.pop()) is not None:
                swept.append(task)
            for holding in self._ledger.workers.values():
                swept += holding.tasks
            for task in swept:
                self.settle(task, CANCELLED, False, cancelled())
        for task in swept:
            self._let_go(task)
