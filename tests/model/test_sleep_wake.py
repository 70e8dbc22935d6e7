"""A worker that sleeps on its request ring and the threads that feed it: no message waits for a sleeper."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from .checker import DEAD, END, Model, Party, State, explore
from .planted import must_be_found


def feeder(i: int, messages: int, mistake: str | None) -> Party:
    """A thread of the parent: publishes under the token, wakes after giving it up."""
    p = Party(f"feeder{i}", "publish", buffered=True)

    @p.step
    def publish(m: State) -> str | None:
        if m.lock is not None:
            return None
        if m["sent", i] == messages:
            return END
        m.lock = p.name
        p.store(m, "head", p.load(m, "head") + 1)
        m["sent", i] += 1
        return "unlock"

    @p.step
    def unlock(m: State) -> str:
        p.store(m, "lock", None)
        return "look"

    @p.step
    def look(m: State) -> str:
        if mistake != "feeder does not fence":
            p.fence(m)
        if not p.load(m, "asleep"):
            return "publish"
        return "wake" if mistake == "feeder clears the flag after the wake" else "clear"

    @p.step
    def clear(m: State) -> str:
        p.store(m, "asleep", 0)
        p.fence(m)  # the system call that follows
        return "publish" if mistake == "feeder clears the flag after the wake" else "wake"

    @p.step
    def wake(m: State) -> str:
        m.in_futex = False
        return "clear" if mistake == "feeder clears the flag after the wake" else "publish"

    return p


def sleeper(mistake: str | None) -> Party:
    p = Party("worker", "look", mortal=True, buffered=True)

    @p.step
    def look(m: State) -> str:
        if m.tail < m.head:
            m.tail += 1
            return "look"
        return "announce"

    @p.step
    def announce(m: State) -> str:
        if mistake == "worker looks before it announces":
            return "look_again" if m.tail == m.head else "look"
        p.store(m, "asleep", 1)
        return "futex" if mistake == "worker does not look again" else "look_again"

    @p.step
    def look_again(m: State) -> str:
        if mistake == "worker looks before it announces":
            p.store(m, "asleep", 1)
            return "futex"
        if mistake != "worker does not fence":
            p.fence(m)
        return "stay_up" if m.tail < m.head else "futex"

    @p.step
    def stay_up(m: State) -> str:
        p.store(m, "asleep", 0)
        return "look"

    @p.step
    def futex(m: State) -> str:
        p.fence(m)
        if m.asleep != 1:
            return "stay_up"
        m.in_futex = True
        return "asleep"

    @p.step
    def asleep(m: State) -> str | None:
        return None if m.in_futex else "stay_up"

    @p.blow
    def asleep_or_interrupted(m: State) -> str | None:
        if m.interrupted:
            return None
        m.interrupted = True
        m.in_futex = False
        return "stay_up"

    return p


def build(mistake: str | None = None, feeders: int = 2, messages: int = 2) -> Model:
    memory: dict[Hashable, object] = {"head": 0, "tail": 0, "asleep": 0, "in_futex": False, "lock": None}
    memory |= {"interrupted": False}
    memory |= {("sent", i): 0 for i in range(feeders)}
    parties = [feeder(i, messages, mistake) for i in range(feeders)] + [sleeper(mistake)]

    def at_rest(m: State) -> str | None:
        if m["at", "worker"] == DEAD:
            return None
        return f"{m.head - m.tail} messages wait for a sleeper" if m.tail < m.head else None

    return Model(parties, dict(memory), lambda m: None, at_rest)


MISTAKES = [
    "worker does not look again",
    "worker looks before it announces",
    "worker does not fence",
    "feeder does not fence",
    "feeder clears the flag after the wake",
]


def test_no_message_waits_for_a_sleeper() -> None:
    explore(build())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    must_be_found(build(mistake), "wait for a sleeper")
