"""The workers of one pool: hiring, dismissing, killing.

Owner: the manager thread; before that thread runs, the thread that makes the pool.
Rule: a descriptor or process that was opened here is closed here, also when hiring fails half way.
"""

from __future__ import annotations

import itertools
from multiprocessing import process
from typing import TYPE_CHECKING, Any

from multitask import _native
from multitask._engine import child, family
from multitask._engine.byvalue import report  # noqa: F401  # what a forked worker needs, it has from here
from multitask._engine.core import Core
from multitask._engine.wire import as_bytes
from multitask._engine.workers.process import start_worker

if TYPE_CHECKING:
    from multitask._engine.engine import Config
if family.available:
    from multitask._engine.family import broker  # noqa: F401  # the first worker of a program needs it

STARTING, READY, LEAVING = "starting", "ready", "leaving"
WORKER_SPIN_NS = 100_000  # how long an idle worker looks at its lane before it sleeps


class Hand:
    """One worker as the manager knows it."""

    __slots__ = ("cause", "channel", "killed", "name", "state", "wid", "worker")

    def __init__(self, wid: int, name: str, worker: Any, channel: Any) -> None:
        self.wid = wid
        self.name = name
        self.worker = worker  # WorkerProcess or ThreadWorker
        self.channel = channel
        self.state = STARTING
        self.killed = False  # by us
        self.cause: BaseException | None = None  # why it could not be initialized, or why it was killed

    def memory(self) -> int | None:
        """Resident bytes when last seen."""
        resident = getattr(self.channel, "resident", None)
        return resident() if resident is not None else None


class Staff:
    """Who works for the pool now."""

    def __init__(self, config: Config, core: Core) -> None:
        self.hands: dict[int, Hand] = {}
        self.strays: list[int] = []  # processes that a killed worker left and that could not be ended
        self._config = config
        self._core = core
        self._numbers = itertools.count()
        self._method = config.start_method or "forkserver"
        self._needed: Any = ()
        self._initializer = self._encode_initializer()

    def _encode_initializer(self) -> Any:
        config, encoder = self._config, self._core.encoder
        if config.initializer is None or encoder is None or self._method == "fork":
            return None
        parcel, needs = encoder.dump((config.initializer, config.initargs))
        self._needed = needs  # while they are held, the workers to come may borrow what was lent for it
        return as_bytes(parcel), tuple((number, name, as_bytes(content)) for number, name, content in needs)

    def hire(self) -> Hand:
        """Start one more worker; it is fed once it has reported."""
        wid = next(self._numbers)
        name = f"{self._config.name or 'worker'}-{wid}"
        hand = self._thread(wid, name) if self._config.kind == "thread" else self._process(wid, name)
        self.hands[wid] = hand
        return hand

    def _thread(self, wid: int, name: str) -> Hand:
        from multitask._engine.channels.memory import MemoryChannel
        from multitask._engine.workers.thread import ThreadWorker

        config = self._config
        channel = MemoryChannel()
        worker = ThreadWorker(
            channel,
            initializer=config.initializer,
            initargs=config.initargs,
            max_tasks=config.maxtasksperchild,
            name=name,
        )
        self._core.add_worker(wid, channel)
        worker.start()
        return Hand(wid, name, worker, channel)

    def _process(self, wid: int, name: str) -> Hand:
        channel, fds, kind = self._channel()
        try:
            worker = start_worker(self._method, self._spec(kind, name), fds, self._inheritance())
        except BaseException:
            self._hand_over(channel)
            channel.close()
            raise
        self._hand_over(channel)
        try:
            self._core.add_worker(wid, channel)
            self._core.watch(worker.fileno(), wid)
        except BaseException:
            worker.kill_tree()
            worker.close()
            raise
        return Hand(wid, name, worker, channel)

    def _inheritance(self) -> child.Inherited | None:
        config, encoder = self._config, self._core.encoder
        if self._method != "fork" or encoder is None:
            return None
        return child.Inherited(
            encoder.definitions.snapshot, None if config.initializer is None else (config.initializer, config.initargs)
        )

    def _channel(self) -> tuple[Any, list[int], str]:
        if _native.available and isinstance(self._core, _native.core.NativeCore):
            spin = WORKER_SPIN_NS if self._core.cpus > 1 and self._config.processes <= self._core.cpus else 0
            lane = _native.core.Lane(spin)
            return lane, [*lane.child_fds(), *self._core.shared_fds()], child.RING
        from multitask._engine.channels import pipe

        channel, fds = pipe.make()
        return channel, fds, child.PIPE

    def _hand_over(self, channel: Any) -> None:
        # The worker has its copies: as long as this process holds them too, it would not notice a dead worker.
        if hasattr(channel, "child_fds"):
            channel.started()
        else:
            channel.close_child()

    def _spec(self, channel: str, name: str) -> dict[str, Any]:
        config = self._config
        encoder: Any = self._core.encoder
        return {
            "channel": channel,
            "space": encoder.space,
            "initializer": self._initializer,
            "maxtasksperchild": config.maxtasksperchild,
            "max_memory": config.max_memory,
            "name": name,
            "family": family.address(),
            "authkey": bytes(process.current_process().authkey),
            "kill_point": KILL_POINT,
            "senders": config.processes + 1,
        }

    def kill(self, hand: Hand) -> None:
        """End the worker and what it has started, now. Its exit is reported as that of any other."""
        if not hand.killed:
            hand.killed = True
            self.strays.extend(hand.worker.kill_tree() or ())

    def bury(self, hand: Hand) -> int | None:
        """The worker is dead: reap it and give back what belonged to it. Returns its exit code."""
        fd = hand.worker.fileno()
        if fd >= 0:
            self._core.unwatch(fd)
        if self._config.kind == "process" and not hand.killed and hand.state != LEAVING:
            # It died by itself: what it had started must not go on without it.
            self.strays.extend(hand.worker.kill_tree() or ())
        code: int | None = hand.worker.exitcode()
        hand.worker.close()
        del self.hands[hand.wid]
        return code


# For tests: (step, after) at which each worker kills itself; see _native/lane.h.
KILL_POINT: tuple[int, int] | None = None
