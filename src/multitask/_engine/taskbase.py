"""The state of one call, and of calls watched together, for the portable cores.

Who changes what:
* A task is settled once, by a thread that holds its core's lock (``settle``). Everybody else only looks.
* ``_condition`` is made when somebody first looks at it. Whoever looks at ``_state`` while holding it (as
  ``concurrent.futures.wait`` does) sees the task settled, or will be notified: ``settle`` publishes under the
  condition if there is one, and under ``_word`` that nobody made one if there is none.
* Locks are taken in the order core's lock, condition, ``_word``. Under ``_word`` nothing is called at all, so
  that neither a signal handler nor the garbage collector can run there.
* What a signal handler may interrupt in the main thread (everything here but ``settle``) changes one thing in
  one step.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

from multitask._engine import clock, patience
from multitask._engine.core import CALL, CANCELLED, FINISHED, PENDING, Options
from multitask._engine.sites import Site, is_ours
from multitask.errors import CancelledError

Hook = Callable[[Any], object]
Outcome = tuple[bool, Any]

_word = threading.Lock()


def _after_fork() -> None:
    # Another thread of the parent may have held it.
    global _word
    _word = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Watch:
    """What a task has only once somebody watches it."""

    __slots__ = ("condition", "decoding", "hooks", "waiters")

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.decoding = threading.RLock()
        self.waiters: list[Any] = []
        self.hooks: list[Hook] = []


class TaskBase:
    """One call: where it is, how it ended. ``multitask.Task`` adds the public names."""

    __slots__ = (
        "_asked",
        "_basket",
        "_core",
        "_fn",
        "_key",
        "_load",
        "_mode",
        "_ok",
        "_options",
        "_place",
        "_raw",
        "_seq",
        "_site",
        "_status",
        "_value",
        "_watch",
        "_wid",
    )

    def __init__(
        self,
        core: Any,
        fn: Any,
        options: Options | None = None,
        mode: int = CALL,
        basket: Basket | None = None,
        site: Site | None = None,
    ) -> None:
        self._core = core
        self._fn = fn
        self._options = options
        self._mode = mode
        self._basket = basket  # it is told when this task is settled; for a parent: the basket of its members
        self._site = site
        self._asked = False
        self._load: Any = None  # what a worker needs for the call, until it is settled
        self._status = PENDING
        self._ok = False
        self._raw = False  # _value is a reply as it came from the worker
        self._value: Any = None
        self._watch: _Watch | None = None
        # The ledger's fields.
        self._place = 0
        self._wid = -1
        self._key = 0.0
        self._seq = 0

    @property
    def _settled(self) -> bool:
        return self._status != PENDING

    # --- the outcome

    def _outcome(self) -> Outcome:
        """(ok, value). Decodes the reply on the first call, in this thread, which may run code of the user's."""
        if self._status == PENDING:
            raise RuntimeError("the task is not settled")
        self._asked = True
        if self._raw:
            self._decode()
        return self._ok, self._value

    def _decode(self) -> None:
        # The second of two threads waits for the first: a reply is decoded once, or one task had two results.
        with self._watched().decoding:
            if not self._raw:
                return
            ok, value = self._ok, self._value
            if isinstance(value, Basket):
                ok, value = flatten(value.members)
            else:
                try:
                    value = self._core.encoder.load(value) if ok else self._core.encoder.load_error(value)
                except KeyboardInterrupt:
                    raise  # Ctrl-C while decoding: nothing has changed, the next call decodes again
                except BaseException as error:
                    ok, value = False, error
            if not self._raw:  # a finalizer in this thread has asked for it meanwhile: all get what it got
                return
            self._ok = ok
            self._value = value
            self._raw = False  # last: whoever sees it looks at the two above without the lock

    # --- watching

    def _watched(self) -> _Watch:
        watch = self._watch
        if watch is None:
            made = _Watch()
            with _word:
                watch = self._watch
                if watch is None:
                    self._watch = watch = made
        return watch

    def _add_hook(self, fn: Hook) -> bool:
        """Have ``fn(task)`` called on the callback thread once this is settled; False if it is settled already."""
        if self._status != PENDING:
            return False
        watch = self._watched()
        with watch.condition:
            if self._status != PENDING:
                return False
            watch.hooks.append(fn)
            return True

    def _wait(self, timeout: float | None) -> bool:
        """Sleep until settled; False when *timeout* seconds did not do."""
        if self._status != PENDING:
            return True
        return sleep_until(self._watched().condition, lambda: self._status != PENDING, timeout)

    # --- settling, under the core's lock

    def _settle(self, status: int, ok: bool, value: Any, raw: bool = False) -> bool:
        """Publish the outcome and tell everybody; False: it was settled before, nothing changes."""
        if self._status != PENDING:
            return False
        with _word:
            watch = self._watch
            if watch is None:
                self._ok = ok
                self._value = value
                self._raw = raw
                self._status = status
        if watch is not None:
            with watch.condition:
                self._ok = ok
                self._value = value
                self._raw = raw
                self._status = status
                self._tell(watch)
            hooks, watch.hooks = watch.hooks, []
            if hooks:
                self._core.callbacks.put(self, hooks)
        self._after_settling()
        return True

    def _tell(self, watch: _Watch) -> None:
        watch.condition.notify_all()
        for waiter in watch.waiters:
            if self._status == CANCELLED:
                waiter.add_cancelled(self)
            elif self._ok:
                waiter.add_result(self)
            else:
                waiter.add_exception(self)

    def _after_settling(self) -> None:
        """What follows for others: the basket, the list of failures."""
        basket = self._basket
        if basket is not None and basket.parent is self:
            basket = None
        # A failed chunk shows up as the failure of its map.
        if self._status == FINISHED and not self._ok and (basket is None or basket.parent is None):
            self._core.failures.append(self)
        if basket is not None:
            basket._add(self)

    # --- what concurrent.futures looks at

    @property
    def _condition(self) -> threading.Condition:
        return self._watched().condition

    @property
    def _waiters(self) -> list[Any]:
        return self._watched().waiters

    @property
    def _done_callbacks(self) -> list[Hook]:
        return self._watched().hooks

    @property
    def _state(self) -> str:
        status = self._status
        if status == PENDING:
            return "RUNNING" if self._core.running(self) else "PENDING"
        return "FINISHED" if status == FINISHED else "CANCELLED_AND_NOTIFIED"

    @property
    def _result(self) -> Any:
        if self._status == PENDING:
            return None
        ok, value = self._outcome()
        return value if ok else None

    @property
    def _exception(self) -> BaseException | None:
        if self._status == PENDING:
            return None
        ok, value = self._outcome()
        return None if ok else value


class Basket:
    """Tasks watched together: a stream's window, or (with *parent*) the chunks of one map.

    Without a parent a settled member is appended to ``ready``, for the consumer to pop. With one, the parent is
    settled when ``total`` members are.
    """

    def __init__(self, core: Any, total: int | None = None, parent: TaskBase | None = None) -> None:
        self.core = core
        self.parent = parent
        self.members: list[Any] = []  # with a parent: in order of submission
        self.ready: deque[Any] = deque()
        self.settled = 0
        self.failed = False
        self._total = total
        self._condition = threading.Condition()
        self._sleepers = 0

    @property
    def total(self) -> int | None:
        """How many members there will be; None: not known yet. May be set late."""
        return self._total

    @total.setter
    def total(self, total: int | None) -> None:
        self._total = total
        with self._condition:
            self._condition.notify_all()

    @property
    def finished(self) -> bool:
        """Whether all members are settled."""
        return self._total is not None and self.settled >= self._total

    def _add(self, task: TaskBase) -> None:
        """A member has been settled; called under the core's lock."""
        if not task._ok:
            self.failed = True
        if self.parent is None:
            self.ready.append(task)
        self.settled += 1
        if self.parent is not None and self.settled == self._total:
            self.parent._core.settle(self.parent, FINISHED, not self.failed, self)
        if self._sleepers:
            with self._condition:
                self._condition.notify_all()

    def _wait(self, timeout: float | None) -> bool:
        """Sleep until there is something in ``ready`` or all members are settled."""
        if self.ready or self.finished:
            return True
        with self._condition:
            # Announce the sleep before the look in sleep_until: the other order loses a member settled in between.
            self._sleepers += 1
            try:
                return sleep_until(self._condition, lambda: bool(self.ready) or self.finished, timeout)
            finally:
                self._sleepers -= 1


def flatten(members: list[Any]) -> Outcome:
    """The members' results as one list, or the error of the first member that failed."""
    results: list[Any] = []
    for member in members:
        ok, value = member._outcome()
        if not ok:
            for other in members:
                other._asked = True  # this one error stands for all of them
            return False, value
        if member._mode == CALL:
            results.append(value)
        else:
            results.extend(value)
    return True, results


def caller() -> Site | None:
    """The line outside of this package that called into it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    return None if frame is None else (frame.f_code, frame.f_lasti)


def cancelled() -> CancelledError:
    """The value of a cancelled task."""
    return CancelledError()


def sleep_until(condition: threading.Condition, settled: Callable[[], bool], timeout: float | None) -> bool:
    """Sleep on *condition* until *settled()*; False when *timeout* seconds did not do. Ctrl-C interrupts it."""
    until = None if timeout is None else clock.monotonic() + timeout
    with condition:
        while not settled():
            left = None if until is None else until - clock.monotonic()
            if left is not None and left <= 0:
                return False
            condition.wait(patience.piece(left))
        return True
