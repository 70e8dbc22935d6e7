"""The engine of one pool: its core, its workers and the thread that manages them, behind a few verbs.

    Pool ──► Engine ──► core (ledger and lanes)          submit, wait, withdraw: any thread
                   └──► Supervisor (one manager thread)   deaths, timers, retries, replacement, the end

Owner of the workers: the supervisor's thread, save the first ones, which are started before that thread runs.
Rule: the engine never refers to its pool, so that a dropped pool can be noticed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from multitask import _native, policies
from multitask._engine import patience, shutdown
from multitask._engine.callbacks import Callbacks
from multitask._engine.core import GONE, RUNNING, Core
from multitask._engine.supervisor import Supervisor
from multitask._engine.unread import Failures

if TYPE_CHECKING:
    from multitask._engine.flow import Flows


class Config(NamedTuple):
    """What a pool was asked to be."""

    processes: int
    kind: str = "process"
    start_method: str | None = None
    initializer: Any = None
    initargs: tuple[Any, ...] = ()
    maxtasksperchild: int | None = None
    max_memory: int | None = None
    name: str | None = None
    policy: Any = "fifo"
    task_class: Any = None


class Engine:
    """Core, workers and manager thread of one pool."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.kind = config.kind
        self.processes = config.processes
        self.callbacks = Callbacks(config.name or "pool")
        self.state = "running"
        self.flows: Flows | None = None  # the pool's streams
        self._ended = threading.Event()
        self._abandoned = False
        if config.kind == "inline":
            self._supervisor: Supervisor | None = None
            self.core: Core = self._inline_core()
        else:
            self.core = _core_for(config, self.callbacks)
            self._supervisor = Supervisor(config, self.core, self._on_end)
            self._supervisor.start()
        shutdown.register(self)

    def _inline_core(self) -> Core:
        from multitask._engine.workers.inline import InlineCore

        if self.config.initializer is not None:
            self.config.initializer(*self.config.initargs)
        return InlineCore(task_type=self.config.task_class, callbacks=self.callbacks)

    def cancel(self, task: Any) -> bool:
        """Take *task* back, or stop it where it runs; True when it is cancelled now. Waits for that at most 5 s."""
        answer = self.core.withdraw(task)
        if answer == GONE:
            return bool(task.cancelled())
        if answer == RUNNING:
            if self.kind != "process":
                return False
            self.core.post(("cancel", task))
            self.core.wait(task, 5.0)
            return bool(task.cancelled())
        return True

    def close(self) -> None:
        """Take no more calls and end once all are done. Does not wait."""
        if self.state == "running":
            self.state = "closed"
            self.core.close()
            if self._supervisor is None:
                self._on_end()

    def terminate(self) -> None:
        """Cancel what waits and what runs, and end. Does not wait."""
        if self.state not in ("terminated", "disowned"):
            self.state = "terminated"
            self.core.close()
            if self._supervisor is None:
                self._on_end()
            else:
                self.core.post(("terminate",))

    def abandon(self) -> None:
        """Nobody holds the pool any more: finish what was given, then end. For finalizers: any thread, any moment."""
        self._abandoned = True
        self.close()
        # _on_end looks at _abandoned after it has set _ended: at least one of the two sees the other.
        if self._ended.is_set() and self.state != "disowned":
            self.callbacks.later(self.report)

    def finish(self) -> None:
        """The process ends: take on what streams over builtin containers still hold, then close."""
        flows = self.flows
        if flows is not None:
            flows.close()
            flows.stop("closed")
        self.close()

    def report(self) -> None:
        """All is done: show the failures that nobody asked for, and be forgotten."""
        from multitask._engine import unread

        if unread.busy_here(self.core):
            self.callbacks.later(self.report)
            return
        if self.state != "disowned":
            unread.report(self.core)
        shutdown.forget(self)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the work is done and the workers are gone; False when *timeout* seconds were not enough."""
        return patience.wait(self._ended, timeout)

    def disown(self) -> None:
        """In a child of os.fork(): nothing here belongs to this process."""
        self.state = "disowned"
        disown = getattr(self.core, "disown", None)
        if disown is not None:
            disown()
        self.callbacks.disown()
        self._ended.set()

    def _on_end(self) -> None:
        # Not forgotten yet: callbacks may still run, failures are unread.
        self.flows = None  # breaks a cycle
        self.callbacks.close()
        self._ended.set()
        if self._abandoned:
            self.callbacks.later(self.report)


def _core_for(config: Config, callbacks: Callbacks) -> Core:
    from multitask._engine.cpus import cpu_count

    policy = policies.make(config.policy)
    if config.kind == "process" and _native.available:
        from multitask._engine.clock import monotonic

        key: Any = None
        if not isinstance(policy, policies.FIFO):
            # bound here, so that the core need not know what a policy is
            def key(options: Any) -> float:
                return policy.key(options, monotonic())

        cpus = cpu_count()  # asked once: it reads half a dozen files
        spin = SPIN_NS if cpus > 1 else 0
        core = _native.core.NativeCore(
            _encoder(config), config.task_class, key, callbacks.put, spin, cpus, config.processes + 1
        )
        core.failures = Failures(callbacks)
        return core
    from multitask._engine.portable import PortableCore

    encoder = _encoder(config) if config.kind == "process" else None
    return PortableCore(encoder=encoder, policy=policy, task_type=config.task_class, callbacks=callbacks)


SPIN_NS = 100_000  # how long a caller that waits looks at the lanes before it sleeps


def _encoder(config: Config) -> Any:
    import sys

    from multitask._engine.wire import Encoder

    if config.start_method == "fork":
        return Encoder(snapshot=dict(sys.modules["__main__"].__dict__))
    return Encoder()
