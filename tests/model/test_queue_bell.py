"""The queue's bells: producers, consumers that sleep, and a watcher that is woken and takes nothing.

Without a death nobody sleeps while there is something. After one, the clock helps: sleepers look again.
"""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from .checker import DEAD, END, Model, Party, State, explore
from .planted import must_be_found


def wake_one(m: State) -> None:
    """futex_wake(1): the kernel's line is first in, first out."""
    if m.asleep:
        m.asleep = m.asleep[1:]


def producer(i: int, messages: int, mistake: str | None) -> Party:
    p = Party(f"producer{i}", "commit", mortal=True, buffered=True)

    @p.step
    def commit(m: State) -> str | None:
        if m["sent", i] == messages:
            return END
        if mistake == "wakes before it commits" and not m["woke", i]:
            return "look"
        if m.lock:
            return None
        m.lock = True
        p.store(m, "put", p.load(m, "put") + 1)
        return "unlock"

    p.on_death = lambda m: m.update(lock=False) if m[p.at] == "unlock" else None

    @p.step
    def unlock(m: State) -> str:
        p.store(m, "lock", False)
        m["sent", i] += 1
        m["woke", i] = False
        return "commit" if mistake == "wakes before it commits" else "look"

    @p.step
    def look(m: State) -> str:
        if mistake != "producer does not fence":
            p.fence(m)
        m["woke", i] = True
        return "turn" if m.sleepers else "commit"

    @p.step
    def turn(m: State) -> str:
        p.fence(m)
        if mistake != "turn is left as it is":
            m.turn += 1
        return "wake"

    @p.step
    def wake(m: State) -> str:
        wake_one(m)
        return "commit"

    return p


def sleeper(name: str, wants: int, mistake: str | None, watches: bool = False) -> Party:
    """Takes *wants* messages one by one; a watcher leaves when it has seen one."""
    p = Party(name, "take", mortal=True, buffered=True)
    seen, got, slept = ("seen", name), ("got", name), ("slept", name)

    def out_of_bed(m: State) -> None:
        m.asleep = tuple(other for other in m.asleep if other != name)

    p.on_death = out_of_bed

    @p.step
    def take(m: State) -> str:
        p.fence(m)
        if m.put == m.taken:
            return "announce_first" if mistake == "reads the turn after its look" else "read_turn"
        if not watches:
            m.taken += 1
        m[got] += 1
        return "pass_on" if m[slept] else "take" if m[got] < wants else END

    @p.step
    def pass_on(m: State) -> str:
        m[slept] = False
        on = "take" if m[got] < wants else END
        if mistake == "the woken one passes nothing on" or not m.sleepers or m.put == m.taken:
            return on
        m.turn += 1
        wake_one(m)
        return on

    @p.step
    def read_turn(m: State) -> str:
        m[seen] = m.turn
        return "look_again" if mistake == "looks before it announces" else "announce"

    @p.step
    def announce_first(m: State) -> str:
        m.sleepers += 1
        return "look_again"

    @p.step
    def announce(m: State) -> str:
        p.fence(m)
        m.sleepers += 1
        return "futex" if mistake in ("does not look again", "looks before it announces") else "look_again"

    @p.step
    def look_again(m: State) -> str:
        if m.put > m.taken:
            return "take" if mistake == "looks before it announces" else "get_up"
        if mistake == "looks before it announces":
            return "announce"
        return "late_turn" if mistake == "reads the turn after its look" else "futex"

    @p.step
    def late_turn(m: State) -> str:
        m[seen] = m.turn
        return "futex"

    @p.step
    def futex(m: State) -> str:
        if m.turn != m[seen]:
            return "get_up"
        m.asleep += (name,)
        return "asleep"

    @p.step
    def asleep(m: State) -> str | None:
        if name in m.asleep:
            return None
        m[slept] = True
        return "get_up"

    @p.step
    def asleep_or_time_is_up(m: State) -> str | None:
        if not m["deaths"] or name not in m.asleep or m.put == m.taken:
            return None
        out_of_bed(m)
        return "get_up"

    @p.step
    def get_up(m: State) -> str:
        m.sleepers = max(m.sleepers - 1, 0)
        return "take"

    return p


def build(mistake: str | None = None, producers: int = 2, watched: bool = False, deaths: int = 1) -> Model:
    memory: dict[Hashable, object] = {"put": 0, "taken": 0, "turn": 0, "sleepers": 0, "asleep": (), "lock": False}
    sleepers = [sleeper("consumer0", 1, mistake), sleeper("consumer1", 1, mistake)]
    if watched:
        sleepers = [sleeper("watcher", 1, mistake, watches=True), sleeper("consumer0", producers, mistake)]
    for i in range(producers):
        memory |= {("sent", i): 0, ("woke", i): False}
    for p in sleepers:
        memory |= {("seen", p.name): 0, ("got", p.name): 0, ("slept", p.name): False}
    parties = [producer(i, 1, mistake) for i in range(producers)] + sleepers

    def at_rest(m: State) -> str | None:
        lying = [p.name for p in sleepers if m["at", p.name] not in (DEAD, END)]
        return f"{lying} sleep, and there is something" if lying and m.put > m.taken else None

    return Model(parties, memory, lambda m: None, at_rest, deaths)


MISTAKES = [
    "does not look again",
    "looks before it announces",
    "reads the turn after its look",
    "producer does not fence",
    "wakes before it commits",
    "turn is left as it is",
]


@pytest.mark.parametrize("deaths", [0, 1])
@pytest.mark.parametrize("watched", [False, True])
def test_nobody_sleeps_while_there_is_something(deaths: int, watched: bool) -> None:
    print(explore(build(watched=watched, deaths=deaths), 900_000))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    must_be_found(build(mistake, deaths=0), "there is something", 900_000)


def test_the_checker_finds_a_watcher_that_passes_nothing_on() -> None:
    must_be_found(build("the woken one passes nothing on", watched=True, deaths=0), "there is something", 900_000)
