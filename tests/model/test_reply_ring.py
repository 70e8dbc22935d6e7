"""The reply ring: a worker that finds it full sleeps until the parent has made room; nobody is held up."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from .checker import DEAD, END, Model, Party, State, explore
from .planted import must_be_found

AWAKE, MANAGER = 0, 1


def worker(replies: int, mistake: str | None) -> Party:
    def died(m: State) -> None:
        m.pidfd = True

    p = Party("worker", "reserve", mortal=True, buffered=True, on_death=died)

    @p.step
    def reserve(m: State) -> str:
        head = p.load(m, "head")
        if head == replies:
            return END
        if mistake != "the tail to wait for is read after the ring was full":
            m.seen_tail = m.tail
        return "publish" if head - m.tail < m.room else "full"

    @p.step
    def publish(m: State) -> str:
        p.store(m, "head", p.load(m, "head") + 1)
        return "reserve" if mistake == "worker waits for room before it rings" and m.head + 1 < replies else "bell"

    @p.step
    def bell(m: State) -> str:
        p.fence(m)
        return "ring" if p.cas(m, "word", MANAGER, AWAKE) else "reserve"

    @p.step
    def ring(m: State) -> str:
        m.event = True
        return "reserve"

    @p.step
    def full(m: State) -> str:
        if mistake == "the tail to wait for is read after the ring was full":
            m.seen_tail = m.tail
        p.store(m, "waiting", 1)
        return "futex" if mistake == "worker does not look again" else "look_again"

    @p.step
    def look_again(m: State) -> str:
        if mistake != "worker does not fence":
            p.fence(m)
        return "stay_up" if m.tail != m.seen_tail else "futex"

    @p.step
    def stay_up(m: State) -> str:
        p.store(m, "waiting", 0)
        return "reserve"

    @p.step
    def futex(m: State) -> str:
        p.fence(m)
        if m.waiting != 1:
            return "reserve"
        m.in_futex = True
        return "asleep"

    @p.step
    def asleep(m: State) -> str | None:
        return None if m.in_futex else "reserve"

    return p


def parent(mistake: str | None) -> Party:
    p = Party("parent", "drain", buffered=True)

    @p.step
    def drain(m: State) -> str:
        if m.head == p.load(m, "tail"):
            return "announce"
        if mistake == "parent wakes before it frees":
            return "look_for_waiter"
        return "release"

    @p.step
    def release(m: State) -> str:
        p.store(m, "tail", p.load(m, "tail") + 1)
        m.counted += 1
        return "drain" if mistake == "parent wakes before it frees" else "look_for_waiter"

    @p.step
    def look_for_waiter(m: State) -> str:
        if mistake != "parent does not fence":
            p.fence(m)
        on = "release" if mistake == "parent wakes before it frees" else "drain"
        if mistake == "parent never wakes the worker":
            return on
        return "clear" if p.load(m, "waiting") else on

    @p.step
    def clear(m: State) -> str:
        p.store(m, "waiting", 0)
        p.fence(m)
        return "wake"

    @p.step
    def wake(m: State) -> str:
        m.in_futex = False
        return "release" if mistake == "parent wakes before it frees" else "drain"

    @p.step
    def announce(m: State) -> str:
        p.store(m, "word", MANAGER)
        return "look_again"

    @p.step
    def look_again(m: State) -> str:
        p.fence(m)
        return "epoll" if m.head == m.tail else "up"

    @p.step
    def epoll(m: State) -> str | None:
        if not m.event and not m.pidfd:
            return None
        m.event = m.pidfd = False
        return "up"

    @p.step
    def up(m: State) -> str:
        p.cas(m, "word", MANAGER, AWAKE)
        return "drain"

    return p


def build(mistake: str | None = None, replies: int = 4, room: int = 1) -> Model:
    memory: dict[Hashable, object] = {"head": 0, "tail": 0, "room": room, "word": AWAKE, "waiting": 0}
    memory |= {"in_futex": False, "event": False, "pidfd": False, "seen_tail": 0, "counted": 0}

    def bad(m: State) -> str | None:
        return "more counted than published" if m.counted > m.head else None

    def at_rest(m: State) -> str | None:
        if m.counted != m.head:
            return f"{m.head - m.counted} committed replies are not counted"
        if m["at", "worker"] not in (DEAD, END):
            return "the worker waits for room that is there"
        return None

    return Model([worker(replies, mistake), parent(mistake)], dict(memory), bad, at_rest)


MISTAKES = {
    "worker does not look again": "room that is there",
    "worker does not fence": "room that is there",
    "the tail to wait for is read after the ring was full": "room that is there",
    "parent does not fence": "room that is there",
    "parent wakes before it frees": "room that is there",
    "parent never wakes the worker": "room that is there",
    "worker waits for room before it rings": "not counted|room that is there",
}


@pytest.mark.parametrize("room", [1, 2])
def test_a_full_ring_holds_nobody_up(room: int) -> None:
    explore(build(room=room))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    must_be_found(build(mistake), MISTAKES[mistake])
