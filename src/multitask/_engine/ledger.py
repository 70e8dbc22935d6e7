"""The state of every task and what every worker holds: events in, decisions out.

Owner: whoever holds the core's lock. No threads, clocks or pipes in here.
Rule: a task leaves WAITING only by a decision of this ledger (it is given to a worker, or withdrawn), stands in
the line at most once, and reaches DONE at most once. What a worker holds is known at every moment:
the tasks it was given, in order, of which the started ones are a prefix.

         submit            feed / take            start               settled
    NEW ────────► WAITING ─────────────► HELD ───────────► STARTED ─────────► DONE
     │              │ ▲                    │                 │    │            ▲
     │ withdraw     │ └── take back, ──────┘                 │    └─► ASIDE ───┤
     └──────────────┴──► WITHDRAWN ────────┐   worker died   │         │ ▲     │
                         (DONE follows)    └─────────────────┴─────────┘ │     │
                                             requeue: back to WAITING ◄──┘     │
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, Protocol, TypeVar

from multitask._engine import dispatch
from multitask._engine.core import GONE, RUNNING, TAKEN_BACK

NEW, WAITING, HELD, STARTED, ASIDE, WITHDRAWN, DONE = range(7)

STALE_KEPT = 1024  # withdrawn tasks may stay in the line up to this many, or half of the line


class Piece(Protocol):
    """What the ledger keeps in a task: four fields that nobody else writes (but see ``withdraw``)."""

    _place: int
    _wid: int  # the worker that holds it, -1: none
    _key: float  # from the policy; smaller runs first
    _seq: int  # number of its submission, 0: none yet; negative while it does not stand in the line


P = TypeVar("P", bound=Piece)  # hashed by identity


class Line(Generic[P]):
    """The waiting tasks: a deque when all keys are equal, a heap otherwise. Withdrawn ones leave lazily.

    The deque knows front and end. In the heap a task always stands where its key and its submission put it.
    """

    def __init__(self, ordered: bool) -> None:
        self.ordered = ordered
        self._fifo: deque[P] = deque()
        self._heap: list[tuple[float, int, P]] = []
        self._next = 1
        self._stale = 0

    def __len__(self) -> int:
        return len(self._fifo) + len(self._heap) - self._stale

    def tasks(self) -> list[P]:
        """All tasks in it, in order."""
        tasks = [entry[2] for entry in sorted(self._heap, key=lambda entry: entry[:2])] or self._fifo
        return [task for task in tasks if task._seq > 0]

    def push(self, task: P) -> None:
        """To the end of the line; where there are keys, behind all that are as urgent and were submitted before it."""
        self._enter(task)
        if not self.ordered:
            self._fifo.append(task)

    def push_front(self, tasks: Iterable[P]) -> None:
        """Back to the front, *tasks* being in their old order; where there are keys, to where they stood."""
        for task in reversed(list(tasks)):
            self._enter(task)
            if not self.ordered:
                self._fifo.appendleft(task)

    def _enter(self, task: P) -> None:
        task._place = WAITING
        if task._seq:
            task._seq = abs(task._seq)
        else:
            task._seq = self._next
            self._next += 1
        if self.ordered:
            heapq.heappush(self._heap, (task._key, task._seq, task))

    def pop(self) -> P | None:
        """The next task, WITHDRAWN ones included (the caller finishes those); None: the line is empty."""
        while True:
            if self._fifo:
                task = self._fifo.popleft()
            elif self._heap:
                task = heapq.heappop(self._heap)[2]
            else:
                return None
            if task._seq > 0:
                task._seq = -task._seq
                return task
            self._stale -= 1

    def forget(self, task: P) -> None:
        """A withdrawn task does not count any more; its entry goes when it is met or when too many are stale."""
        if task._seq <= 0:
            return
        task._seq = -task._seq
        self._stale += 1
        if self._stale > STALE_KEPT and self._stale * 2 > len(self._fifo) + len(self._heap):
            self._fifo = deque(each for each in self._fifo if each._seq > 0)
            self._heap = [entry for entry in self._heap if entry[2]._seq > 0]
            heapq.heapify(self._heap)
            self._stale = 0


@dataclass(slots=True)
class Holding(Generic[P]):
    """One worker: whether it may be fed, and its tasks in the order given; the first *started* of them started."""

    wid: int
    ready: bool = False
    ending: bool = False  # retired, condemned, broken or gone: it gets nothing more
    condemned: bool = False  # it waits to be killed
    tasks: deque[P] = field(default_factory=deque)
    started: int = 0

    @property
    def feeding(self) -> bool:
        return self.ready and not self.ending

    @property
    def held(self) -> int:
        return len(self.tasks)

    @property
    def unstarted(self) -> int:
        return len(self.tasks) - self.started


class Ledger(Generic[P]):
    """See the module: the one place that says where a task is."""

    def __init__(self, *, ordered: bool = False, depth: int = 1) -> None:
        self.line: Line[P] = Line(ordered)
        self.workers: dict[int, Holding[P]] = {}
        self.depth = depth
        self.aside: set[P] = set()
        self.orphans: list[P] = []  # withdrawn tasks met in the line, to be settled by the caller

    # --- tasks

    def submit(self, task: P) -> bool:
        """A new task enters the line; False: it was withdrawn before it got here."""
        if task._place != NEW:
            return False
        self.line.push(task)
        return True

    def requeue(self, task: P, front: bool = False) -> bool:
        """A task that was set aside or lost waits again; False: it was withdrawn or settled meanwhile."""
        if task._place != ASIDE:
            return False
        self.aside.discard(task)
        if front:
            self.line.push_front([task])
        else:
            self.line.push(task)
        return True

    def withdraw(self, task: P) -> int:
        """TAKEN_BACK: it will never start (and is WITHDRAWN until ``settled``); RUNNING, GONE: nothing changed.

        A lane that starts tasks by itself must say ``start`` first when it finds that this one did.
        """
        if task._place in (WITHDRAWN, DONE):
            return GONE
        if task._place == STARTED:
            return RUNNING
        if task._place == HELD:
            self._release(task)
        self.aside.discard(task)
        task._place = WITHDRAWN
        return TAKEN_BACK

    def set_aside(self, task: P) -> int:
        """It failed and may be tried again: out of its worker, neither waiting nor done. Returns the worker."""
        wid = self._release(task)
        task._place = ASIDE
        self.aside.add(task)
        return wid

    def settled(self, task: P) -> int:
        """It is DONE. Returns the worker that held it, -1: none."""
        self.line.forget(task)
        self.aside.discard(task)
        wid = self._release(task)
        task._place = DONE
        return wid

    # --- workers

    def add_worker(self, wid: int) -> Holding[P]:
        """A worker exists; it is fed from ``ready`` on."""
        if wid in self.workers:
            raise ValueError(f"worker {wid} is here already")
        holding: Holding[P] = Holding(wid)
        self.workers[wid] = holding
        return holding

    def ready(self, wid: int) -> None:
        self.workers[wid].ready = True

    def retire(self, wid: int) -> None:
        """It gets nothing more; what it holds it may still do."""
        self.workers[wid].ending = True

    def condemn(self, task: P) -> int | None:
        """The worker that runs *task* starts nothing more; None: nobody runs it."""
        if task._place != STARTED or task._wid not in self.workers:
            return None
        holding = self.workers[task._wid]
        holding.ending = holding.condemned = True
        return task._wid

    def remove_worker(self, wid: int, not_started: P | None = None) -> tuple[list[P], list[P]]:
        """(lost, returned): what it had started is ASIDE now, the rest stands at the front of the line again.

        *not_started* is a task that counted as started but is known not to be.
        """
        holding = self.workers.pop(wid)
        lost, back = [], []
        for number, task in enumerate(holding.tasks):
            task._wid = -1
            if number < holding.started and task is not not_started:
                task._place = ASIDE
                self.aside.add(task)
                lost.append(task)
            else:
                back.append(task)
        self.line.push_front(back)
        return lost, back

    # --- decisions

    def feed(self) -> list[tuple[int, P]]:
        """Pairs of (worker, task) while there are tasks in the line and room in workers; the tasks are HELD now."""
        pairs: list[tuple[int, P]] = []
        while len(self.line):
            wid = dispatch.choose(self.workers.values(), self.depth)
            if wid is None:
                break
            task = self.take(wid)
            if task is None:
                break
            pairs.append((wid, task))
        return pairs

    def take(self, wid: int) -> P | None:
        """The next task for this worker, HELD by it now."""
        while (task := self.line.pop()) is not None:
            if task._place == WAITING:
                task._place = HELD
                task._wid = wid
                self.workers[wid].tasks.append(task)
                return task
            self.orphans.append(task)
        return None

    def start(self, task: P) -> None:
        """Its worker has started it: from here on it cannot be taken back."""
        holding = self.workers[task._wid]
        if holding.tasks[holding.started] is not task:
            raise ValueError("a worker starts its tasks in the order in which it got them")
        holding.started += 1
        task._place = STARTED

    def steal(self) -> list[P]:
        """Take back what ``dispatch.steal`` says; the tasks stand at the front of the line again."""
        move = dispatch.steal(self.workers.values(), len(self.line))
        return [] if move is None else self.take_back(move.victim, move.tasks)

    def overtake(self, task: P) -> list[P]:
        """An urgent task came into the line: what was given last to a worker and is less urgent stands there again."""
        behind = [
            wid
            for wid, holding in self.workers.items()
            if holding.feeding and holding.held > 1 and holding.unstarted and holding.tasks[-1]._key > task._key
        ]
        return [back for wid in behind for back in self.take_back(wid, 1)]

    def take_back(self, wid: int, count: int) -> list[P]:
        """The last *count* tasks that worker has not started go back to the front of the line, in order."""
        holding = self.workers[wid]
        count = min(count, holding.unstarted)
        back = list(islice(holding.tasks, len(holding.tasks) - count, None))
        for task in back:
            holding.tasks.pop()
            task._wid = -1
        self.line.push_front(back)
        return back

    def pending(self) -> list[P]:
        """Every task that is not DONE: held, set aside, waiting (in order)."""
        held = [task for holding in self.workers.values() for task in holding.tasks]
        return held + list(self.aside) + self.line.tasks()

    def counts(self) -> tuple[int, int, int]:
        """(waiting in the line, held by workers, workers that hold something)."""
        # list(): a look from another thread must not meet a dict that changes.
        held = [len(holding.tasks) for holding in list(self.workers.values())]
        return len(self.line), sum(held), sum(1 for number in held if number)

    def _release(self, task: P) -> int:
        wid, task._wid = task._wid, -1
        holding = self.workers.get(wid)
        if holding is None:
            return -1
        if task._place == STARTED:
            holding.started -= 1
        if holding.tasks and holding.tasks[0] is task:
            holding.tasks.popleft()
        else:
            holding.tasks.remove(task)
        return wid
