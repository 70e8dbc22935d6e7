"""The manager thread of one pool: the only one that starts, kills and replaces workers and keeps the clock.

    attend() ──► events ──► ready · exit · bye · broken · sent · failed · post · idle ──► core, staff, timers

It sleeps in one wait on the doorbell, the workers' deaths and the next timer; an idle pool's thread never wakes.
Rule: no user code runs here, save the decoding of an initializer's error. Whatever goes wrong in this thread
itself settles every task with that error: nobody waits for a manager that is gone.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from multitask._engine import family, losses
from multitask._engine.clock import monotonic
from multitask._engine.core import CANCELLED, FINISHED, RUNNING, Core, Event
from multitask._engine.staff import LEAVING, READY, STARTING, Hand, Staff
from multitask._engine.workers import tree
from multitask.errors import CancelledError, PoolBroken

if TYPE_CHECKING:
    from multitask._engine.engine import Config

ATTEMPTS = 3  # workers in a row that may fail to get ready
PROVEN_ATTEMPTS = 10  # the same once a worker has been ready: then it is not the initializer
GRACE_SECONDS = 5.0  # for a worker that was told to stop
THREAD_GRACE_SECONDS = 1.0  # for a running thread when the pool is terminated
AGAIN_SECONDS = 0.5  # until the next try to start a worker when the system refused
LONGEST_PAUSE_SECONDS = 30.0  # between tries, while others do the work


class Supervisor:
    """Runs the pool's events; ``on_end`` is called once, when all workers are gone."""

    def __init__(self, config: Config, core: Core, on_end: Callable[[], None]) -> None:
        self._config = config
        self._core = core
        self._on_end = on_end
        self._staff = Staff(config, core)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._misfits = 0  # workers in a row that died before they were ready
        self._proven = False  # one was ready
        self._hire_after = 0.0  # while there are others
        self._resting: set[Any] = set()  # tasks between two tries
        self._looked_at = -AGAIN_SECONDS  # when we last looked for stopped workers
        self._ending = False
        self._over = False
        self._handlers: dict[str, Callable[..., None]] = {
            "ready": self._ready,
            "exit": self._exit,
            "bye": self._bye,
            "broken": self._broken,
            "sent": self._sent,
            "failed": self._failed,
            "post": self._post,
            "idle": lambda: None,
        }
        name = f"multitask-manager-{config.name or 'pool'}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the workers and the thread; raises what keeps the first workers from starting."""
        try:
            for _ in range(self._config.processes):
                self._staff.hire()
        except BaseException:
            for hand in list(self._staff.hands.values()):
                if self._config.kind == "process":
                    self._staff.kill(hand)
                    self._core.remove_worker(hand.wid)
                    self._staff.bury(hand)
            self._core.dispose()
            raise
        self._thread.start()
        if self._config.kind == "process":
            family.serve()  # workers may lend and borrow; not before this point, so that no start waits for it

    # --- the loop

    def _run(self) -> None:
        try:
            while not self._over:
                self._turn()
        except BaseException as error:
            self._give_up(error)
            raise
        finally:
            self._core.dispose()
            self._on_end()

    def _turn(self) -> None:
        # A frame for each turn: the event of the last one may hold a task, and this one may sleep for hours.
        # A worker's words before its death: what it said explains it.
        for event in sorted(self._core.attend(self._next_timer()), key=_is_exit):
            self._handle(event)
        self._fire()
        if self._core.closed and not self._ending and not self._core.unfinished:
            self._let_go()

    def _handle(self, event: Event) -> None:
        self._handlers[event[0]](*event[1:])

    def _next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - monotonic()) if self._timers else None

    def _at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), call))

    def _fire(self) -> None:
        while self._timers and self._timers[0][0] <= monotonic():
            heapq.heappop(self._timers)[2]()

    def _give_up(self, error: BaseException) -> None:
        failure = PoolBroken("the manager thread of the pool failed", why=repr(error), fix="please report this")
        failure.__cause__ = error
        self._core.close()
        for task in (*self._core.pending(), *self._resting):
            self._core.settle(task, FINISHED, False, failure)
        for hand in list(self._staff.hands.values()):
            if self._config.kind == "process":
                self._staff.kill(hand)

    # --- workers come and go

    def _ready(self, wid: int) -> None:
        hand = self._staff.hands.get(wid)
        if hand is not None and hand.state == STARTING:
            hand.state = READY
            self._proven = True
            self._misfits = 0

    def _bye(self, wid: int, reason: str) -> None:
        hand = self._staff.hands.get(wid)
        if hand is not None:
            hand.state = LEAVING
            self._fill_up()

    def _broken(self, wid: int, error: BaseException) -> None:
        hand = self._staff.hands.get(wid)
        if hand is not None:
            hand.cause = error

    def _exit(self, wid: int) -> None:
        hand = self._staff.hands.get(wid)
        if hand is None:
            return
        memory = hand.memory()
        removed = self._core.remove_worker(wid)
        code = self._staff.bury(hand)
        if removed.lost is not None:
            tries = self._tries(removed.lost)
            self._again_or(
                removed.lost,
                hand.cause or losses.lost(hand.name, hand.worker.pid, code, removed, tries, memory),
                front=True,
            )
        if hand.state == STARTING and removed.lost is None and not hand.killed and not self._ending:
            self._misfit(hand.cause, code)
        self._fill_up()
        self._end_if_empty()

    def _misfit(self, cause: BaseException | None, code: int | None) -> None:
        """One more that did not get ready. Gives the pool up when that goes on and nobody does the work."""
        self._misfits += 1
        if any(hand.state == READY for hand in self._staff.hands.values()):
            if self._misfits >= ATTEMPTS:
                pause = AGAIN_SECONDS * 2.0 ** min(self._misfits - ATTEMPTS, 10)
                self._hire_after = monotonic() + min(pause, LONGEST_PAUSE_SECONDS)
        elif self._misfits >= (PROVEN_ATTEMPTS if self._proven else ATTEMPTS):
            self._break(losses.broken(self._misfits, cause, code, self._config.name))

    def _fill_up(self) -> None:
        """Hire until there are as many workers as the pool is to have."""
        while not self._ending:
            present = sum(hand.state != LEAVING for hand in self._staff.hands.values())
            if present >= self._config.processes:
                return
            if present and monotonic() < self._hire_after:
                self._at(self._hire_after, self._fill_up)
                return
            try:
                self._staff.hire()
            except (OSError, RuntimeError, MemoryError) as error:
                self._at(monotonic() + AGAIN_SECONDS, self._fill_up)
                self._misfit(error, None)
                return

    # --- tasks that need more than a settle

    def _tries(self, task: Any) -> int:
        tried: int = task.__dict__.get("_tried", 0)
        return 1 + tried

    def _again_or(self, task: Any, error: Any, front: bool = False) -> None:
        """Try the task again if it has retries left, otherwise settle it with *error*."""
        options = task._options
        tried = self._tries(task)
        if options is None or tried > options.retries or self._ending:
            self._core.settle(task, FINISHED, False, error)
            return
        task.__dict__["_tried"] = tried
        if options.backoff > 0:
            self._resting.add(task)
            self._at(monotonic() + options.backoff * 2 ** (tried - 1), lambda: self._rested(task))
        else:
            self._core.requeue(task, front)

    def _rested(self, task: Any) -> None:
        self._resting.discard(task)
        self._core.requeue(task)

    def _failed(self, task: Any, wid: int, error: Any) -> None:
        self._again_or(task, error)

    def _sent(self, task: Any, wid: int) -> None:
        # One timer per task, however often it is moved from worker to worker before it starts.
        if "_timer" not in task.__dict__:
            task.__dict__["_timer"] = True
            self._check_at(monotonic() + task._options.timeout, task)

    def _check_at(self, when: float, task: Any) -> None:
        # The books hold it until it is settled; after that nobody has to, least of all for the rest of an hour.
        known = weakref.ref(task)

        def check() -> None:
            waits = known()
            if waits is not None:
                self._check_time(waits)

        self._at(when, check)

    def _check_time(self, task: Any) -> None:
        if task._settled:
            return
        started = self._core.started(task)
        timeout = task._options.timeout
        if started is None:  # not begun: it cannot be late sooner than this
            self._pass_by_stopped()
            self._check_at(monotonic() + timeout, task)
            return
        if monotonic() < started + timeout:
            self._check_at(started + timeout, task)
            return
        wid = self._core.condemn(task)
        hand = self._staff.hands.get(wid) if wid is not None else None
        if hand is None:
            self._check_at(monotonic() + 0.02, task)  # it ends at this very moment
            return
        hand.cause = losses.too_long(task, timeout)
        task.__dict__.pop("_timer", None)  # the next try has a clock of its own
        if self._tries(task) > task._options.retries:
            self._core.settle(task, FINISHED, False, hand.cause)
        self._staff.kill(hand)

    def _pass_by_stopped(self) -> None:
        """Take back what waits behind a worker that somebody has stopped (SIGSTOP), and put another in its place."""
        now = monotonic()
        if self._config.kind != "process" or now < self._looked_at + AGAIN_SECONDS:
            return
        self._looked_at = now
        for hand in list(self._staff.hands.values()):
            if hand.state == READY and _stopped(hand):
                hand.state = LEAVING
                self._core.retire(hand.wid)
        self._fill_up()

    def _post(self, message: tuple[Any, ...]) -> None:
        verb = message[0]
        if verb == "cancel":
            self._cancel(message[1])
        elif verb == "terminate":
            self._terminate(CancelledError("the pool was terminated"))

    def _cancel(self, task: Any) -> None:
        if self._core.withdraw(task) != RUNNING:
            return
        wid = self._core.condemn(task)
        hand = self._staff.hands.get(wid) if wid is not None else None
        if hand is not None:
            self._core.settle(task, CANCELLED, False, CancelledError())
            self._staff.kill(hand)

    # --- the end

    def _let_go(self) -> None:
        """All is settled and nothing more may come: let the workers go."""
        self._ending = True
        for hand in list(self._staff.hands.values()):
            if hand.state != LEAVING:
                hand.state = LEAVING
                self._core.retire(hand.wid)
        if self._config.kind == "process":
            self._at(monotonic() + GRACE_SECONDS, self._end_stragglers)
        self._end_if_empty()

    def _end_stragglers(self) -> None:
        for hand in list(self._staff.hands.values()):
            self._staff.kill(hand)

    def _terminate(self, error: BaseException) -> None:
        self._ending = True
        for task in (*self._core.pending(), *self._resting):
            self._core.settle(task, CANCELLED, False, error)
        if self._config.kind == "process":
            self._end_stragglers()
        else:
            for hand in self._staff.hands.values():
                self._core.retire(hand.wid)
            # A running thread cannot be stopped: it is left behind, a daemon, when it does not end by itself.
            self._at(monotonic() + THREAD_GRACE_SECONDS, self._leave)
        self._end_if_empty()

    def _leave(self) -> None:
        self._over = True

    def _break(self, error: PoolBroken) -> None:
        self._core.broken = error
        self._core.close()
        for task in (*self._core.pending(), *self._resting):
            self._core.settle(task, FINISHED, False, error)
        self._let_go()

    def _end_if_empty(self) -> None:
        if self._ending and not self._staff.hands:
            self._over = True


def _stopped(hand: Hand) -> bool:
    found = tree.stat(hand.worker.pid)
    return found is not None and found.state in b"Tt"


def _is_exit(event: Event) -> bool:
    return bool(event[0] == "exit")
