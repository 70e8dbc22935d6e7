"""One pool twice: the native core with workers played by hand, and the pure ledger that says what must happen.

A `Pair` takes events made of small numbers, so that any part of a sequence of events is a sequence too (that is how
a failure is shortened). After each event both sides must tell the same story. A worker takes its next message at
once: then "started" is known on both sides at every moment, and half of what a worker holds is half of what it has
not started, rounded up.

    python tests/support/spec_and_native.py SEED COUNT     runs COUNT sequences; exit code 1 and the events on failure
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

from played_workers import Codec, Hand, Piece, outcome, work

from multitask._engine import ledger as lg
from multitask._engine.core import CANCELLED, FINISHED, GONE, TAKEN_BACK, Options
from multitask._engine.ledger import Ledger
from multitask._native.core import NativeCore
from multitask.task import task_class


class Pair:
    """Both sides, and the events."""

    def __init__(self, ordered: bool, depth: int) -> None:
        self.codec = Codec()
        key: Callable[[Options | None], float] | None = self.key if ordered else None
        self.core = NativeCore(self.codec, task_class("process"), key)
        self.core.fixed_depth = depth
        self.ledger: Ledger[Any] = Ledger(ordered=ordered, depth=depth)
        self.ordered = ordered
        self.hands: dict[int, Hand] = {}
        self.pieces: list[Piece] = []
        self.aside: list[Piece] = []  # the native side has reported that they failed
        self.wids = 0
        self.add(0, 0)
        self.hello(0, 0)

    @staticmethod
    def key(options: Options | None) -> float:
        return 0.0 if options is None else float(-options.priority)

    def close(self) -> None:
        for wid in list(self.hands):
            self.bury(wid)
        self.core.dispose()

    # --- choosing by number

    def some_hand(self, a: int) -> int | None:
        wids = sorted(self.hands)
        return wids[a % len(wids)] if wids else None

    def busy_hand(self, a: int) -> int | None:
        wids = sorted(wid for wid, hand in self.hands.items() if hand.running and not hand.stopped)
        return wids[a % len(wids)] if wids else None

    def recent(self, a: int) -> Piece | None:
        return self.pieces[-1 - a % min(len(self.pieces), 24)] if self.pieces else None

    # --- events: each takes two numbers

    def add(self, a: int, b: int) -> None:
        """A worker is started."""
        if len(self.hands) < 4:
            hand = Hand(self.core)
            self.hands[self.wids] = hand
            self.core.add_worker(self.wids, hand.lane)
            self.ledger.add_worker(self.wids)
            self.wids += 1

    def hello(self, a: int, b: int) -> None:
        """A worker reports."""
        wid = self.some_hand(a)
        if wid is not None and not self.hands[wid].said_hello:
            self.hands[wid].said_hello = True
            self.hands[wid].end.hello()
            self.attend()
            self.ledger.ready(wid)

    def submit(self, a: int, b: int) -> None:
        """Up to four calls, some urgent, some with a second try."""
        for turn in range(1 + a % 4):
            draw = (b >> 3 * turn) % 8
            options = Options(priority=draw % 3, retries=draw // 4) if draw else None
            number = len(self.pieces)
            native = self.core.submit(work, (number,), None, options)
            piece = Piece(number, self.key(options) if self.ordered else 0.0, draw // 4, native)
            self.pieces.append(piece)
            self.enter(piece)
            self.take()

    def finish(self, a: int, b: int) -> None:
        """Some workers answer, some of them several times before anybody looks."""
        for turn in range(1 + b % 5):
            self.answer(self.busy_hand(a + turn // 2), ok=(b >> turn) % 4 != 0)
        self.collected()
        self.attend()

    def withdraw(self, a: int, b: int) -> None:
        piece = self.recent(a)
        if piece is not None:
            self.withdraw_both(piece)

    def finish_and_withdraw(self, a: int, b: int) -> None:
        """A task is taken back whose answer is there and has not been collected."""
        wid = self.busy_hand(a)
        if wid is not None:
            piece = self.hands[wid].running
            assert piece is not None
            self.answer(wid, ok=True)
            self.collected()
            self.withdraw_both(piece)
            self.attend()

    def condemn(self, a: int, b: int) -> None:
        """A running task is cancelled and its worker killed."""
        wid = self.busy_hand(a)
        if wid is None:
            return
        piece = self.hands[wid].running
        assert piece is not None
        if b % 2:  # too late: it has answered
            self.answer(wid, ok=True)
            self.collected()
            assert self.core.condemn(piece.native) is None
            self.attend()
            return
        assert self.core.condemn(piece.native) == self.ledger.condemn(piece) == wid
        self.core.settle(piece.native, CANCELLED, False, ValueError("condemned"))
        piece.outcome = ("cancelled", None)
        self.hands[wid].stopped = True
        self.ledger.take_back(wid, 10**6)
        self.refill()
        self.take()
        if b % 4 >= 2:  # it gets through and publishes an outcome, which does not count any more
            assert not self.hands[wid].end.finish_by_hand(self.codec, piece.number, True)
            self.hands[wid].answers.append((piece, True))
            self.collected()
            self.attend()
        if b % 8 >= 4:  # its death is noticed at once, or in the course of time
            self.remove(wid)

    def die(self, a: int, b: int) -> None:
        """A worker ends by itself; what it has published still counts."""
        wid = self.some_hand(a)
        if wid is None:
            return
        for turn in range(b % 3):
            if self.hands[wid].running and not self.hands[wid].stopped:
                self.answer(wid, ok=(b >> turn) % 4 != 0)
        self.remove(wid)

    def submit_and_die(self, a: int, b: int) -> None:
        """A worker dies with a message that it has not taken."""
        wid = self.some_hand(a)
        options = Options(priority=b % 3)
        number = len(self.pieces)
        if wid is None or len(self.ledger.line):
            return
        piece = Piece(number, self.key(options) if self.ordered else 0.0, 0, None)
        piece.native = self.core.submit(work, (number,), None, options)
        self.pieces.append(piece)
        self.enter(piece)
        self.remove(wid)

    def retire(self, a: int, b: int) -> None:
        wid = self.some_hand(a)
        if wid is not None and not self.ledger.workers[wid].ending:
            self.core.retire(wid)
            self.ledger.retire(wid)
            self.ledger.take_back(wid, 10**6)

    def requeue(self, a: int, b: int) -> None:
        """A task that failed gets its next try, or is failed for good."""
        if not self.aside:
            return
        piece = self.aside.pop(a % len(self.aside))
        if b % 4 == 0 and piece.outcome is None:
            self.ledger.settled(piece)
            piece.outcome = ("error", f"given up {piece.number}")
            self.core.settle(piece.native, FINISHED, False, ValueError(f"given up {piece.number}"))
        else:
            self.core.requeue(piece.native, bool(b % 2))
            assert self.ledger.requeue(piece, bool(b % 2)) == (piece.outcome is None)

    # --- what events are made of

    def answer(self, wid: int | None, ok: bool) -> None:
        """The worker publishes an outcome and takes its next message; nobody has looked yet."""
        if wid is None:
            return
        hand = self.hands[wid]
        piece = hand.running
        assert piece is not None
        value = piece.number if ok else ValueError(str(piece.number))
        assert hand.end.finish_by_hand(self.codec, value, ok)
        hand.running = None
        hand.answers.append((piece, ok))
        self.take_one(wid)

    def collected(self) -> None:
        """On the pure side: what has been published is settled or set aside."""
        for hand in self.hands.values():
            for piece, ok in hand.answers:
                if not ok and piece.tries:
                    self.ledger.set_aside(piece)
                    continue
                self.ledger.settled(piece)
                if piece.outcome is None:
                    piece.outcome = ("ok", piece.number) if ok else ("error", str(piece.number))
            hand.answers.clear()

    def attend(self) -> None:
        for event in self.core.attend(0):
            if event[0] == "failed":
                piece = next(piece for piece in self.pieces if piece.native is event[1])
                self.aside.append(piece)

    def withdraw_both(self, piece: Piece) -> None:
        # A condemned task is settled while its worker still holds it: the core looks at the outcome first.
        said = GONE if piece.outcome else self.ledger.withdraw(piece)
        assert self.core.withdraw(piece.native) == said
        if said == TAKEN_BACK:
            self.ledger.settled(piece)
            piece.outcome = ("cancelled", None)

    def remove(self, wid: int) -> None:
        """The worker is dead: both sides close its books."""
        self.collected()
        removed = self.core.remove_worker(wid)
        lost, back = self.ledger.remove_worker(wid)
        for piece in [piece for piece in lost if piece.outcome]:
            self.ledger.settled(piece)
            lost.remove(piece)
        assert removed.returned == len(back)
        assert ([] if removed.lost is None else [removed.lost]) == [piece.native for piece in lost]
        self.hands.pop(wid).close()
        self.refill()
        for piece in lost:
            assert removed.started is not None
            if piece.tries:
                self.core.requeue(piece.native, True)
                self.ledger.requeue(piece, True)
            else:
                self.core.settle(piece.native, FINISHED, False, ValueError(f"lost {piece.number}"))
                self.ledger.settled(piece)
                piece.outcome = ("error", f"lost {piece.number}")

    def bury(self, wid: int) -> None:
        self.remove(wid)
        self.refill()

    def enter(self, piece: Piece) -> None:
        """On the pure side: submitted; if it has to wait, it goes before what is prefetched and less urgent."""
        self.ledger.submit(piece)
        self.refill()
        if self.ordered and piece._place == lg.WAITING:
            self.ledger.overtake(piece)
            self.refill()

    def refill(self) -> None:
        """The pure side hands out what waits, and moves what stands behind others, until nothing changes."""
        while self.ledger.feed() or self.ledger.steal():
            pass
        self.ledger.orphans.clear()

    def take(self) -> None:
        for wid in sorted(self.hands):
            self.take_one(wid)

    def take_one(self, wid: int) -> None:
        """The worker starts what stands first in its lane: the ledger must say that it is this one."""
        hand = self.hands[wid]
        if hand.running or hand.stopped:
            return
        got = hand.end.take_by_hand(self.codec)
        holding = self.ledger.workers[wid]
        if got == "stop":
            hand.stopped = True
            assert holding.ending
        elif got is not None:
            piece = self.pieces[got[1][0]]
            assert holding.unstarted, f"worker {wid} starts {piece}, the ledger gave it nothing"
            assert holding.tasks[holding.started] is piece, f"worker {wid} starts {piece}, of {list(holding.tasks)}"
            self.ledger.start(piece)
            hand.running = piece
        else:
            assert not holding.unstarted, f"worker {wid} finds nothing, the ledger gave it {list(holding.tasks)}"

    # --- looking

    def step(self, name: str, a: int, b: int) -> None:
        getattr(self, name)(a, b)
        self.refill()
        self.take()
        self.attend()
        self.compare()

    def compare(self) -> None:
        """Every task stands at the same place on both sides, and has the same outcome."""
        assert self.core.counts() == self.ledger.counts()
        held = [piece.native for wid in sorted(self.hands) for piece in self.ledger.workers[wid].tasks]
        pending = self.core.pending()
        assert pending[: len(held)] == held, "held by other workers or in another order"
        line = [piece.native for piece in self.ledger.line.tasks()]
        if self.ordered:
            assert set(pending[len(held) :]) == set(line)
        else:
            assert pending[len(held) :] == line
        unsettled = 0
        for piece in self.pieces:
            started = piece._place == lg.STARTED and piece.outcome is None
            unsettled += piece.outcome is None
            assert self.core.running(piece.native) == started, f"{piece}: runs on one side only"
            assert (self.core.started(piece.native) is not None) == started
            assert outcome(piece.native) == piece.outcome, f"{piece}: {outcome(piece.native)}, not {piece.outcome}"
        assert self.core.unfinished == unsettled


EVENTS = {
    "submit": 30, "finish": 30, "withdraw": 12, "add": 5, "hello": 8, "finish_and_withdraw": 3, "condemn": 4, "die": 3,
    "submit_and_die": 2, "retire": 2, "requeue": 8,
}  # fmt: skip
Events = list[tuple[str, int, int]]


def draw(seed: int) -> tuple[bool, int, Events]:
    """The events of one sequence."""
    source = random.Random(seed)
    names = source.choices(list(EVENTS), weights=list(EVENTS.values()), k=source.randrange(5, 45))
    events = [(name, source.randrange(64), source.randrange(1 << 12)) for name in names]
    return source.random() < 0.5, source.choice([1, 2, 3, 4, 8]), events


def play(ordered: bool, depth: int, events: Events) -> str | None:
    """What went wrong, or None."""
    pair = Pair(ordered, depth)
    try:
        for number, event in enumerate(events):
            try:
                pair.step(*event)
            except (AssertionError, ValueError) as error:
                return f"event {number}: {type(error).__name__}: {error} ({where(error)})"
        return None
    finally:
        try:
            pair.close()
        except (AssertionError, ValueError):
            pass


def where(error: BaseException) -> str:
    trace, lines = error.__traceback__, []
    while trace is not None:
        lines.append(f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " ".join(lines[2:])


def shorten(ordered: bool, depth: int, events: Events) -> Events:
    """The same failure with fewer events."""
    at = 0
    while at < len(events):
        fewer = events[:at] + events[at + 1 :]
        if play(ordered, depth, fewer):
            events = fewer
        else:
            at += 1
    return events


def main(seed: int, count: int) -> int:
    for each in range(seed, seed + count):
        ordered, depth, events = draw(each)
        if play(ordered, depth, events):
            events = shorten(ordered, depth, events)
            print(f"sequence {each}, ordered={ordered}, depth={depth}: {play(ordered, depth, events)}")
            for number, event in enumerate(events):
                print(f"  {number}: {event}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
