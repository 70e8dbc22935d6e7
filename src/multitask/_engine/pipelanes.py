"""Worker processes on pipes: one call at a time each, sent and answered by the manager thread.

Rule: only the manager touches channels, and it never blocks on one. A worker's end is told once, as ("exit", wid),
after everything it sent has been read.
"""

from __future__ import annotations

from typing import Any

from multitask._engine import clock
from multitask._engine.bell import READ, WRITE
from multitask._engine.channels import kinds
from multitask._engine.channels.pipe import PipeChannel
from multitask._engine.core import FINISHED, Removed
from multitask._engine.wire import Known, Parcel

# A worker's streams end a moment before its death shows; only then is its exit code known. A worker that
# has closed its streams and lives on is of no use: its end is told after this time.
GRACE_SECONDS = 1.0
FORGET_AFTER = 256  # definitions sent until it is worth asking which of them are dead


class _Lane:
    """One worker: its channel, what it knows, when its task was sent."""

    __slots__ = ("channel", "known", "reading", "sent", "task", "writing")

    def __init__(self, channel: PipeChannel) -> None:
        self.channel = channel
        self.known = Known()
        self.task: Any = None
        self.sent = 0.0
        self.reading = True
        self.writing = False


class PipeLanes:
    """The side of a PortableCore that knows about pipes."""

    def __init__(self, core: Any, encoder: Any) -> None:
        self._core = core
        self._encoder = encoder
        self._lanes: dict[int, _Lane] = {}
        self._defined = 0  # definitions sent since workers were last told to forget
        self._ended: dict[int, float] = {}  # workers whose stream ended -> when to tell their end at the latest
        self.watched: set[int] = set()  # workers whose death shows on a descriptor

    # --- any thread

    def load(self, task: Any, fn: Any, args: Any, kwargs: dict[str, Any] | None) -> None:
        """Encode the call, in the caller's thread; what cannot be encoded is settled with that error."""
        encoder = self._encoder
        own: tuple[Any, ...] = ()
        try:
            ref = encoder.function(fn)
            if ref is None:
                number = 0
                parcel, needs = encoder.dump((fn, tuple(args), kwargs or {}))
                own = needs
            else:
                number = ref.id
                parcel, own = encoder.dump((tuple(args), kwargs or {}))
                # The same object as before where possible: what a worker lacks is then quickly found out.
                needs = (*ref.needs, *own) if own else ref.needs
        except Exception as error:
            # Nobody else knows the task yet: these are plain stores. The rest follows when it leaves the inbox.
            task._value = error
            task._status = FINISHED
            return
        # The caller may change its arrays as soon as this returns.
        buffers = tuple(each if type(each) is bytes else bytes(each) for each in parcel.buffers)
        task._load = (number, parcel._replace(buffers=buffers), needs, bool(own))

    def wake(self) -> None:
        """There is work: let the manager know, if it sleeps."""
        self._core._ring()

    def is_reply(self, value: object) -> bool:
        """Whether *value* is an outcome that has yet to be decoded."""
        return isinstance(value, Parcel)

    def started(self, task: Any) -> float | None:
        lane = self._lanes.get(task._wid)
        if lane is None or lane.task is not task:
            return None
        return lane.channel.board.started if lane.channel.taken else lane.sent

    # --- the manager thread

    def add(self, wid: int, channel: PipeChannel) -> None:
        self._lanes[wid] = _Lane(channel)
        self._core._sleeper.add(channel.fd_in, READ, ("in", wid, channel.fd_in))

    def pressing(self) -> bool:
        """Whether something waits that ``gather`` would take."""
        return bool(self._core._inbox)

    def gather(self) -> None:
        """Tasks from the inbox into the line, from the line to the workers."""
        core = self._core
        while core._inbox:
            with core._lock:
                core._drain()
        with core._lock:
            pairs = core._ledger.feed()
            for _, task in pairs:
                core._ledger.start(task)
            core._finish_orphans()
        for wid, task in pairs:
            self._send(wid, task)
        if self._defined >= FORGET_AFTER:
            self._forget_dead()

    def _send(self, wid: int, task: Any) -> None:
        lane = self._lanes[wid]
        number, parcel, needs, own = task._load
        for need in lane.known.missing(needs, own):
            lane.channel.send(kinds.DEFINE, *need)
            self._defined += 1
        lane.task = task
        lane.sent = clock.monotonic()
        lane.channel.send(kinds.CALL, number, task._mode, parcel)
        self._mind_output(wid, lane)
        if task._options is not None and task._options.timeout is not None:
            self._core._tell(("sent", task, wid))

    def _forget_dead(self) -> None:
        """Tell the workers which definitions nothing can ask for any more: no task holds them, no function lives."""
        self._defined = 0
        dead = self._encoder.take_dead()
        for wid, lane in self._lanes.items():
            if ids := lane.known.forget(dead):
                lane.channel.send(kinds.FORGET, ids)
                self._mind_output(wid, lane)

    def _mind_output(self, wid: int, lane: _Lane) -> None:
        """Wake up for room in the pipe exactly while something waits to be written."""
        if lane.channel.pending != lane.writing:
            lane.writing = lane.channel.pending
            if lane.writing:
                self._core._sleeper.add(lane.channel.fd_out, WRITE, ("out", wid, lane.channel.fd_out))
            else:
                self._core._sleeper.drop(lane.channel.fd_out)

    def turn(self, seconds: float | None) -> None:
        """Sleep, then take what has come."""
        if self._ended:
            left = min(self._ended.values()) - clock.monotonic()
            seconds = left if seconds is None else min(seconds, left)
        for what, wid, fd in self._core._sleeper.sleep(seconds):
            lane = self._lanes.get(wid)
            if what == "exit":
                self._core._sleeper.drop(fd)
                self._end(wid)
            elif lane is None:
                self._core._sleeper.drop(fd)
            elif what == "in":
                self._read(wid, lane)
            else:
                lane.channel.flush()
                self._mind_output(wid, lane)
        now = clock.monotonic()
        for wid in [wid for wid, latest in self._ended.items() if now >= latest]:
            self._end(wid)

    def _read(self, wid: int, lane: _Lane) -> None:
        for message in lane.channel.receive():
            self._take(wid, lane, *message)
        if lane.channel.ended and lane.reading:
            lane.reading = False
            self._core._sleeper.drop(lane.channel.fd_in)
            with self._core._lock:
                self._core._ledger.retire(wid)
            self._ended[wid] = clock.monotonic() + (GRACE_SECONDS if wid in self.watched else 0)

    def _end(self, wid: int) -> None:
        self._ended.pop(wid, None)
        lane = self._lanes.get(wid)
        if lane is not None:
            self._read(wid, lane)
            self._ended.pop(wid, None)
            with self._core._lock:
                self._core._ledger.retire(wid)
        self._core._tell(("exit", wid))

    def _take(self, wid: int, lane: _Lane, kind: int, *content: Any) -> None:
        core = self._core
        if kind in (kinds.OK, kinds.ERROR):
            task, lane.task = lane.task, None
            if task is not None:
                with core._lock:
                    core._replied(wid, task, kind == kinds.OK, content[0], True)
                if task._settled:
                    task._load = None
        elif kind == kinds.HELLO:
            with core._lock:
                core._ledger.ready(wid)
            core._tell(("ready", wid))
        elif kind == kinds.BYE:
            with core._lock:
                core._ledger.retire(wid)
            core._tell(("bye", wid, content[0]))
        elif kind == kinds.BROKEN:
            with core._lock:
                core._ledger.retire(wid)
            core._tell(("broken", wid, self._encoder.load_error(content[0])))

    def stop(self, wid: int) -> None:
        """It is retired: tell it to end after what it has."""
        lane = self._lanes[wid]
        lane.channel.send(kinds.STOP)
        self._mind_output(wid, lane)

    def remove(self, wid: int) -> Removed:
        """The worker is dead: what it sent still counts, what it had not started runs elsewhere."""
        core = self._core
        lane = self._lanes[wid]
        self._read(wid, lane)
        self._forget(wid, lane)
        channel = lane.channel
        with core._lock:
            # Condemned for its task, it is given up together with it, started or not.
            given_up = channel.taken or core._ledger.workers[wid].condemned
            lost, back = core._ledger.remove_worker(wid, None if given_up else lane.task)
            over = [task for task in (*lost, *back) if task._settled]
            for task in over:
                core._ledger.settled(task)
        for task in over:
            core._let_go(task)
        task = next((each for each in lost if not each._settled), None)
        board = channel.board
        removed = Removed(None, None, None, None, len(back))
        if task is not None:
            removed = Removed(task, board.at_item, board.started, board.crumb, len(back))
        channel.close()
        return removed

    def _forget(self, wid: int, lane: _Lane) -> None:
        del self._lanes[wid]
        self._ended.pop(wid, None)
        self.watched.discard(wid)
        self._core._sleeper.drop(lane.channel.fd_in)
        if lane.writing:
            self._core._sleeper.drop(lane.channel.fd_out)

    def close(self) -> None:
        for wid, lane in list(self._lanes.items()):
            self._forget(wid, lane)
            lane.channel.close()

    def disown(self) -> None:
        """The workers are the parent's: close this process's copies of their channels, touch nothing else."""
        for lane in self._lanes.values():
            lane.channel.close()
        self._lanes.clear()
