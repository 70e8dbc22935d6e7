"""Shutting the queue down while others put, get and join, and dying in the middle of it."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from .checker import DEAD, END, Model, Party, State, explore
from .planted import must_be_found

SHUT, AT_ONCE = 1, 2


def free(m: State, name: str) -> None:
    for side in ("put", "get"):
        if m["lock", side] == name:
            m["lock", side] = None


def lock(m: State, name: str, side: str) -> bool:
    if m["lock", side] not in (None, name):
        return False
    m["lock", side] = name
    return True


def producer(name: str) -> Party:
    p = Party(name, "take_lock")

    @p.step
    def take_lock(m: State) -> str | None:
        return "check" if lock(m, name, "put") else None

    @p.step
    def check(m: State) -> str:
        return "leave" if m.flags else "commit"

    @p.step
    def commit(m: State) -> str:
        if m.ended:
            m.wrong = "a message came after somebody was told that there are no more"
        m.put += 1
        return "leave"

    @p.step
    def leave(m: State) -> str:
        free(m, name)
        return END

    return p


def consumer(mistake: str | None) -> Party:
    name = "consumer"
    p = Party(name, "take_lock")

    @p.step
    def take_lock(m: State) -> str | None:
        if m.put == m.got and not m.flags:
            return None
        return "look" if lock(m, name, "get") else None

    @p.step
    def look(m: State) -> str:
        if m.put > m.got and (mistake == "get takes what was dropped" or not m.flags & AT_ONCE):
            if m.dropping:
                m.wrong = "a message was taken that is counted as dropped"
            m.got += 1
            return "said_done"
        free(m, name)
        return "ended" if m.flags else "take_lock"

    @p.step
    def said_done(m: State) -> str:
        free(m, name)
        m.done += 1
        return "take_lock"

    @p.step
    def ended(m: State) -> str:
        m.ended = m.ended or not m.flags & AT_ONCE
        return END

    return p


def add_dropping(p: Party, name: str, mistake: str | None, then: str) -> None:
    """What shutdown(immediate) does after the flags, and whoever finds it half done."""

    @p.step
    def drop_get(m: State) -> str | None:
        if m.put == m.got:
            return then
        return "drop_put" if lock(m, name, "get") else None

    @p.step
    def drop_put(m: State) -> str | None:
        if not lock(m, name, "put"):
            return None
        m["left", name] = m.put - m.got
        return "move" if mistake == "moves before it counts" else "count"

    @p.step
    def count(m: State) -> str:
        if m["left", name] and (m.discarded == 0 or mistake == "what is left is counted twice"):
            m.discarded += m["left", name]
        m.dropping = m["left", name] > 0
        return "drop_leave" if mistake == "moves before it counts" else "move"

    @p.step
    def move(m: State) -> str:
        m.got = m.put
        m.dropping = False
        return "count" if mistake == "moves before it counts" else "drop_leave"

    @p.step
    def drop_leave(m: State) -> str:
        free(m, name)
        return then


def shutter(flags: int, mistake: str | None) -> Party:
    name = "shutter"
    p = Party(name, "take_lock", mortal=True, on_death=lambda m: free(m, name))

    @p.step
    def take_lock(m: State) -> str | None:
        if mistake == "flag without the put lock":
            return "flag"
        return "flag" if lock(m, name, "put") else None

    @p.step
    def flag(m: State) -> str:
        m.flags = flags
        return "unlock"

    @p.step
    def unlock(m: State) -> str:
        free(m, name)
        return "drop_get" if flags & AT_ONCE else END

    add_dropping(p, name, mistake, END)
    return p


def joiner(mistake: str | None) -> Party:
    p = Party("joiner", "wait")

    @p.step
    def wait(m: State) -> str | None:
        if m.flags & AT_ONCE and m.put != m.got and mistake != "nobody goes on with it":
            return "drop_get"
        if not m.flags or m.done + m.discarded != m.put:
            return None
        return END

    add_dropping(p, "joiner", mistake, "wait")
    return p


def build(flags: int, mistake: str | None = None) -> Model:
    memory: dict[Hashable, object] = {"put": 1, "got": 0, "done": 0, "discarded": 0, "flags": 0, "ended": False}
    memory |= {"dropping": False, "wrong": None, ("lock", "put"): None, ("lock", "get"): None}
    memory |= {("left", "shutter"): 0, ("left", "joiner"): 0}
    parties = [producer("producer0"), producer("producer1"), consumer(mistake)]
    parties += [shutter(flags, mistake), joiner(mistake)]

    def bad(m: State) -> str | None:
        if m.done + m.discarded > m.put:
            return "more is done than was put"
        return str(m.wrong) if m.wrong else None

    def at_rest(m: State) -> str | None:
        if not m.flags:
            return None  # the shutter died before it began
        waiting = [p.name for p in parties if m["at", p.name] not in (DEAD, END)]
        return f"{waiting} wait for ever" if waiting else None

    return Model(parties, memory, bad, at_rest)


@pytest.mark.parametrize("flags", [SHUT, SHUT | AT_ONCE])
def test_all_are_told_and_all_is_counted(flags: int) -> None:
    print(explore(build(flags), 900_000))


MISTAKES = {
    "flag without the put lock": (SHUT, "came after"),
    "what is left is counted twice": (SHUT | AT_ONCE, "more is done|for ever"),
    "moves before it counts": (SHUT | AT_ONCE, "for ever"),
    "nobody goes on with it": (SHUT | AT_ONCE, "for ever"),
    "get takes what was dropped": (SHUT | AT_ONCE, "counted as dropped|more is done|for ever"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    flags, symptom = MISTAKES[mistake]
    must_be_found(build(flags, mistake), symptom, 900_000)
