"""The ledger against a brute-force model that keeps everything in plain sorted lists."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from multitask._engine import ledger as lg
from multitask._engine.core import GONE, RUNNING, TAKEN_BACK
from multitask._engine.ledger import Ledger


@dataclass(eq=False)
class Piece:
    number: int
    _key: float = 0.0
    _place: int = lg.NEW
    _wid: int = -1
    _seq: int = 0


@dataclass
class ModelWorker:
    ready: bool = False
    ending: bool = False
    tasks: list[Piece] = field(default_factory=list)
    started: int = 0


class Compared(RuleBasedStateMachine):
    """Each rule does one thing to the ledger and to the model; the invariants compare them."""

    ordered = False
    depth = 3

    tasks = Bundle("tasks")
    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.ledger: Ledger[Piece] = Ledger(ordered=self.ordered, depth=self.depth)
        self.line: list[Piece] = []  # in order of arrival
        self.held: dict[int, ModelWorker] = {}
        self.aside: set[Piece] = set()
        self.done: set[Piece] = set()
        self.withdrawn: set[Piece] = set()
        self.numbers = 0

    def in_order(self) -> list[Piece]:
        return sorted(self.line, key=lambda task: (task._key, task.number)) if self.ordered else list(self.line)

    def owner(self, task: Piece) -> int | None:
        return next((wid for wid, worker in self.held.items() if task in worker.tasks), None)

    def running(self, task: Piece) -> bool:
        wid = self.owner(task)
        return wid is not None and self.held[wid].tasks.index(task) < self.held[wid].started

    def release(self, task: Piece) -> None:
        wid = self.owner(task)
        if wid is not None:
            worker = self.held[wid]
            if worker.tasks.index(task) < worker.started:
                worker.started -= 1
            worker.tasks.remove(task)

    @rule(target=tasks, key=st.sampled_from([0.0, 1.0, 2.0]))
    def submit(self, key: float) -> Piece:
        self.numbers += 1
        task = Piece(self.numbers, key)
        assert self.ledger.submit(task)
        self.line.append(task)
        return task

    @rule(target=workers, hello=st.booleans())
    def add_worker(self, hello: bool) -> int:
        self.numbers += 1
        self.ledger.add_worker(self.numbers)
        self.held[self.numbers] = ModelWorker()
        if hello:
            self.ready(self.numbers)
        return self.numbers

    @rule(wid=workers)
    def ready(self, wid: int) -> None:
        self.ledger.ready(wid)
        self.held[wid].ready = True

    @rule(wid=workers)
    def retire(self, wid: int) -> None:
        self.ledger.retire(wid)
        self.held[wid].ending = True

    @rule()
    def feed(self) -> None:
        expected = []
        while self.line:
            able = [
                (len(worker.tasks), wid)
                for wid, worker in self.held.items()
                if worker.ready and not worker.ending and len(worker.tasks) < self.depth
            ]
            if not able:
                break
            wid = min(able)[1]
            task = self.in_order()[0]
            self.line.remove(task)
            self.held[wid].tasks.append(task)
            expected.append((wid, task))
        assert self.ledger.feed() == expected

    @rule(wid=workers)
    def start(self, wid: int) -> None:
        worker = self.held[wid]
        if worker.started < len(worker.tasks):
            self.ledger.start(worker.tasks[worker.started])
            worker.started += 1

    @rule(wid=workers, again=st.booleans())
    def answer(self, wid: int, again: bool) -> None:
        worker = self.held[wid]
        if not worker.started:
            return
        task = worker.tasks[0]
        self.release(task)
        if again:
            assert self.ledger.set_aside(task) == wid
            self.aside.add(task)
        else:
            assert self.ledger.settled(task) == wid
            self.done.add(task)

    @rule(task=tasks, front=st.booleans())
    def requeue(self, task: Piece, front: bool) -> None:
        assert self.ledger.requeue(task, front) == (task in self.aside)
        if task in self.aside:
            self.aside.remove(task)
            self.line.insert(0 if front else len(self.line), task)

    @rule(task=tasks)
    def withdraw(self, task: Piece) -> None:
        answer = self.ledger.withdraw(task)
        if task in self.done or task in self.withdrawn:
            assert answer == GONE
        elif self.running(task):
            assert answer == RUNNING
        else:
            assert answer == TAKEN_BACK
            self.release(task)
            self.aside.discard(task)
            if task in self.line:
                self.line.remove(task)
            self.ledger.settled(task)
            self.done.add(task)

    @rule(task=tasks)
    def condemn(self, task: Piece) -> None:
        wid = self.ledger.condemn(task)
        assert wid == (self.owner(task) if self.running(task) else None)
        if wid is not None:
            self.held[wid].ending = True

    @rule()
    def steal(self) -> None:
        expected: list[Piece] = []
        idle = any(worker.ready and not worker.ending and not worker.tasks for worker in self.held.values())
        loads = [
            (len(worker.tasks), -wid)
            for wid, worker in self.held.items()
            if len(worker.tasks) > 1 and len(worker.tasks) > worker.started
        ]
        if not self.line and idle and loads:
            load, wid = max(loads)
            worker = self.held[-wid]
            split = max(worker.started, len(worker.tasks) - load // 2)
            worker.tasks, expected = worker.tasks[:split], worker.tasks[split:]
            self.line = expected + self.line
        assert self.ledger.steal() == expected

    @rule(target=tasks, wid=consumes(workers))
    def die(self, wid: int) -> object:
        worker = self.held.pop(wid)
        lost, back = self.ledger.remove_worker(wid)
        assert lost == worker.tasks[: worker.started]
        assert back == worker.tasks[worker.started :]
        self.aside.update(lost)
        self.line = back + self.line
        return multiple()

    @precondition(lambda self: self.line)
    @rule()
    def take_directly(self) -> None:
        wid = min(self.held, default=None)
        if wid is not None:
            task = self.in_order()[0]
            assert self.ledger.take(wid) is task
            self.line.remove(task)
            self.held[wid].tasks.append(task)

    @invariant()
    def says_the_same_as_the_model(self) -> None:
        held = [len(worker.tasks) for worker in self.held.values()]
        assert self.ledger.counts() == (len(self.line), sum(held), sum(1 for each in held if each))
        for wid, worker in self.held.items():
            holding = self.ledger.workers[wid]
            assert list(holding.tasks) == worker.tasks
            assert holding.started == worker.started
            assert holding.feeding == (worker.ready and not worker.ending)
        for number, task in enumerate(self.line):
            assert task._place == lg.WAITING, number
        tasks = [task for worker in self.held.values() for task in worker.tasks]
        pending = self.ledger.pending()
        assert sorted(map(id, pending)) == sorted(map(id, [*tasks, *self.aside, *self.line]))
        assert pending[len(pending) - len(self.line) :] == self.in_order()
        assert all(task._place == lg.DONE and task._wid == -1 for task in self.done)

    def teardown(self) -> None:
        # Everything that waits comes out in order, once.
        self.ledger.add_worker(-5)
        out = []
        while (task := self.ledger.take(-5)) is not None:
            out.append(task)
        assert out == self.in_order()


class ComparedByPriority(Compared):
    ordered = True


quick = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestFIFO = Compared.TestCase
TestFIFO.settings = quick
TestPriority = ComparedByPriority.TestCase
TestPriority.settings = quick


@pytest.mark.parametrize("ordered", [False, True])
def test_a_task_withdrawn_by_a_bare_store_is_an_orphan_when_it_is_met(ordered: bool) -> None:
    # This is how far an interrupted withdraw of the portable core may come.
    ledger: Ledger[Piece] = Ledger(ordered=ordered)
    first, second = Piece(1), Piece(2)
    ledger.submit(first)
    ledger.submit(second)
    first._place = lg.WITHDRAWN
    ledger.add_worker(1)
    assert ledger.take(1) is second
    assert ledger.orphans == [first]


@pytest.mark.parametrize("ordered", [False, True])
def test_withdrawn_tasks_do_not_pile_up_in_the_line(ordered: bool) -> None:
    ledger: Ledger[Piece] = Ledger(ordered=ordered)
    kept = Piece(0)
    ledger.submit(kept)
    for number in range(10 * lg.STALE_KEPT):
        task = Piece(number)
        ledger.submit(task)
        assert ledger.withdraw(task) == TAKEN_BACK
        ledger.settled(task)
    assert len(ledger.line) == 1
    assert len(ledger.line._fifo) + len(ledger.line._heap) <= 2 * lg.STALE_KEPT
    ledger.add_worker(1)
    assert ledger.take(1) is kept


def test_a_task_that_was_sent_but_not_started_returns_to_the_front() -> None:
    ledger: Ledger[Piece] = Ledger()
    first, second = Piece(1), Piece(2)
    ledger.submit(first)
    ledger.add_worker(1)
    ledger.ready(1)
    assert ledger.feed() == [(1, first)]
    ledger.start(first)
    ledger.submit(second)
    assert ledger.remove_worker(1, not_started=first) == ([], [first])
    ledger.add_worker(2)
    assert ledger.take(2) is first


def test_a_worker_cannot_start_a_later_task_before_an_earlier_one() -> None:
    ledger: Ledger[Piece] = Ledger(depth=2)
    first, second = Piece(1), Piece(2)
    ledger.submit(first)
    ledger.submit(second)
    ledger.add_worker(1)
    ledger.ready(1)
    ledger.feed()
    with pytest.raises(ValueError, match="in the order"):
        ledger.start(second)


def test_a_worker_id_is_used_once() -> None:
    ledger: Ledger[Piece] = Ledger()
    ledger.add_worker(1)
    with pytest.raises(ValueError, match="here already"):
        ledger.add_worker(1)


def test_a_task_withdrawn_before_it_enters_never_enters() -> None:
    ledger: Ledger[Piece] = Ledger()
    task = Piece(1)
    assert ledger.withdraw(task) == TAKEN_BACK
    assert not ledger.submit(task)
    assert len(ledger.line) == 0


def test_a_running_task_is_not_taken_back() -> None:
    ledger: Ledger[Piece] = Ledger(depth=2)
    first, second = Piece(1), Piece(2)
    ledger.submit(first)
    ledger.submit(second)
    ledger.add_worker(7)
    ledger.ready(7)
    assert ledger.feed() == [(7, first), (7, second)]
    ledger.start(first)
    assert ledger.withdraw(first) == RUNNING
    assert ledger.withdraw(second) == TAKEN_BACK
    ledger.settled(second)
    assert ledger.withdraw(second) == GONE
    assert ledger.counts() == (0, 1, 1)
    assert ledger.remove_worker(7) == ([first], [])


def test_what_a_dead_worker_had_not_started_goes_before_what_waits() -> None:
    ledger: Ledger[Piece] = Ledger(depth=3)
    tasks = [Piece(number) for number in range(4)]
    for task in tasks:
        ledger.submit(task)
    ledger.add_worker(7)
    ledger.ready(7)
    ledger.feed()
    ledger.start(tasks[0])
    assert ledger.remove_worker(7) == (tasks[:1], tasks[1:3])
    assert ledger.line.tasks() == tasks[1:]


def test_an_urgent_task_overtakes_what_is_prefetched_and_less_urgent() -> None:
    ledger: Ledger[Piece] = Ledger(ordered=True, depth=3)
    first, second, third, urgent = Piece(1, 5.0), Piece(2, 5.0), Piece(3, 5.0), Piece(4, 1.0)
    for task in (first, second, third):
        ledger.submit(task)
    ledger.add_worker(7)
    ledger.ready(7)
    ledger.feed()
    ledger.start(first)
    ledger.submit(urgent)
    assert ledger.overtake(urgent) == [third]
    assert ledger.line.tasks() == [urgent, third]
    assert ledger.feed() == [(7, urgent)]


def test_equally_urgent_tasks_keep_the_order_in_which_they_were_submitted() -> None:
    ledger: Ledger[Piece] = Ledger(ordered=True, depth=2)
    tasks = [Piece(number) for number in range(3)]
    for task in tasks:
        ledger.submit(task)
    ledger.add_worker(7)
    ledger.ready(7)
    ledger.feed()
    ledger.start(tasks[0])
    ledger.set_aside(tasks[0])
    ledger.requeue(tasks[0])
    ledger.take_back(7, 1)
    assert ledger.line.tasks() == tasks
