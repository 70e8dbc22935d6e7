"""Settling a task against ``concurrent.futures.wait``: one word says both "settled" and "has a condition".

Nobody makes a condition for most tasks, and settling those is one swap. Whoever looks at a task the way
``concurrent.futures`` does makes the condition first. Two tasks, the threads that settle them, and waiters
that do step by step what ``wait(…, ALL_COMPLETED)`` does with both.
"""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from .checker import END, Model, Party, State, explore
from .planted import must_be_found

PENDING, FINISHED, HAS_CONDITION = 0, 1, 2
TASKS = (0, 1)


def settler(task: int, mistake: str | None) -> Party:
    p = Party(f"settler{task}", "swap")
    word, owner = ("word", task), ("owner", task)

    @p.step
    def swap(m: State) -> str | None:
        if mistake == "settled before the condition is taken":
            m[word] |= FINISHED
            return "take" if m[word] & HAS_CONDITION else END
        if mistake == "the bit is looked at, then the state is stored":
            return "store" if not m[word] & HAS_CONDITION else "take"
        return END if p.cas(m, word, PENDING, FINISHED) else "take"

    @p.step
    def store(m: State) -> str:
        m[word] |= FINISHED
        return END

    @p.step
    def take(m: State) -> str | None:
        if m["condition", task] is None:
            m.broken = "the condition that the word speaks of is not there"
            return END
        if m[owner] is not None:
            return None
        m[owner] = p.name
        return "publish"

    @p.step
    def publish(m: State) -> str:
        m[word] |= FINISHED
        m["notified", task] = True
        return "tell"

    @p.step
    def tell(m: State) -> str:
        for name, counts in m["waiters", task]:
            if counts:
                m["pending", name] -= 1
        m[owner] = None
        return END

    return p


def waiter(i: int, mistake: str | None) -> Party:
    """``concurrent.futures.wait([task 0, task 1])``; condition i of a task is made by waiter i."""
    p = Party(f"waiter{i}", "look")
    me = p.name

    def task(m: State) -> int:
        return int(m["turn", me])

    def go_on(m: State, label: str, then: str) -> str:
        m["turn", me] += 1
        if m["turn", me] < len(TASKS):
            return label
        m["turn", me] = 0
        return then

    @p.step
    def look(m: State) -> str:
        """First look at ``_condition``: make it unless another has."""
        t = task(m)
        if m["word", t] & HAS_CONDITION:
            return go_on(m, "look", "acquire")
        return "announce_bit" if mistake == "the bit is set before the condition is there" else "make"

    @p.step
    def make(m: State) -> str:
        t = task(m)
        if m["condition", t] is None or mistake == "the second condition replaces the first":
            m["condition", t] = me
        return "bit"

    @p.step
    def bit(m: State) -> str:
        m["word", task(m)] |= HAS_CONDITION
        return go_on(m, "look", "acquire")

    @p.step
    def announce_bit(m: State) -> str:
        m["word", task(m)] |= HAS_CONDITION
        return "make_late"

    @p.step
    def make_late(m: State) -> str:
        m["condition", task(m)] = me
        return go_on(m, "look", "acquire")

    @p.step
    def acquire(m: State) -> str | None:
        """All conditions at once, in one order, as ``_AcquireFutures`` does."""
        t = task(m)
        if m["owner", t] is not None:
            return None
        m["owner", t] = me
        m["mine", me] += (m["condition", t],)
        return go_on(m, "acquire", "count")

    @p.step
    def count(m: State) -> str:
        open_tasks = [t for t in TASKS if not m["word", t] & FINISHED]
        if not open_tasks:
            return "let_go"
        m["pending", me] = len(open_tasks)
        for t in TASKS:
            m["waiters", t] += ((me, True),)
        return "let_go"

    @p.step
    def let_go(m: State) -> str:
        for t in TASKS:
            m["owner", t] = None
        return "sleep"

    @p.step
    def sleep(m: State) -> str | None:
        if m["pending", me] > 0:
            return None
        if not all(m["word", t] & FINISHED for t in TASKS):
            m.broken = "wait() returned although a task is not settled"
        return END

    return p


def owner_of_result(mistake: str | None) -> Party:
    """``Future.result()``: under the condition, settled or wait for the notification."""
    p = Party("result", "make")

    @p.step
    def make(m: State) -> str:
        if m["word", 0] & HAS_CONDITION:
            return "acquire"
        if m["condition", 0] is None:
            m["condition", 0] = "result"
        return "bit"

    @p.step
    def bit(m: State) -> str:
        m["word", 0] |= HAS_CONDITION
        return "look_unlocked" if mistake == "result looks before it takes the condition" else "acquire"

    @p.step
    def look_unlocked(m: State) -> str:
        return END if m["word", 0] & FINISHED else "acquire"

    @p.step
    def acquire(m: State) -> str | None:
        if m["owner", 0] is not None:
            return None
        m["owner", 0] = "result"
        return "look"

    @p.step
    def look(m: State) -> str:
        m["owner", 0] = None
        if mistake != "result looks before it takes the condition" and m["word", 0] & FINISHED:
            return END
        m["notified", 0] = False  # a notification from before the wait is not kept
        return "wait"

    @p.step
    def wait(m: State) -> str | None:
        return END if m["notified", 0] else None

    return p


def build(mistake: str | None = None, waiters: int = 1, result: bool = False) -> Model:
    parties = [settler(t, mistake) for t in TASKS] + [waiter(i, mistake) for i in range(waiters)]
    if result:
        parties.append(owner_of_result(mistake))
    memory: dict[Hashable, object] = {"broken": None}
    for t in TASKS:
        memory |= {("word", t): PENDING, ("condition", t): None, ("owner", t): None}
        memory |= {("waiters", t): (), ("notified", t): False}
    for i in range(waiters):
        memory |= {("turn", f"waiter{i}"): 0, ("pending", f"waiter{i}"): 0, ("mine", f"waiter{i}"): ()}

    def bad(m: State) -> str | None:
        if m.broken:
            return str(m.broken)
        for i in range(waiters):
            mine = m["mine", f"waiter{i}"]
            if any(c != m["condition", t] for t, c in enumerate(mine)):
                return "two threads hold two conditions of one task"
            if m["pending", f"waiter{i}"] < 0:
                return "a task was counted twice"
        return None

    def at_rest(m: State) -> str | None:
        for party in parties:
            if m["at", party.name] != END:
                return f"{party.name} waits for ever at {m['at', party.name]}"
        return None

    return Model(parties, dict(memory), bad, at_rest)


MISTAKES = {
    "settled before the condition is taken": ({}, "wait.. returned although"),
    "the bit is looked at, then the state is stored": ({}, "waits for ever"),
    "the bit is set before the condition is there": ({}, "not there|two conditions"),
    "the second condition replaces the first": ({"waiters": 2}, "two conditions"),
    "result looks before it takes the condition": ({"waiters": 0, "result": True}, "waits for ever"),
}


@pytest.mark.parametrize("who", [{"waiters": 1}, {"waiters": 2}, {"waiters": 1, "result": True}], ids=str)
def test_a_waiter_sees_the_outcome_or_is_told(who: dict[str, int]) -> None:
    explore(build(None, **who))  # type: ignore[arg-type]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    who, symptom = MISTAKES[mistake]
    must_be_found(build(mistake, **who), symptom)  # type: ignore[arg-type]
