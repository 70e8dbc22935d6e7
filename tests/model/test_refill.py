"""Slots freed without a reply: what waits in line for room in a lane must not wait for ever.

Messages that were taken back are skipped in silence, and definitions are not answered either. When the ring is
full of those, no reply will come to make the parent look again. So a worker that has freed slots in silence
writes the manager's eventfd before it sleeps, whatever the doorbell word says: the word says "awake" while
the parent is between its failed try and its announcement, and its second look is for replies only. And the
parent empties the eventfd before it looks, or it throws away the ring together with what it announced.
"""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from .checker import Model, Party, State, explore
from .planted import must_be_found

SLOTS = 2
AWAKE, MANAGER = 0, 1


def worker(mistake: str | None) -> Party:
    p = Party("worker", "take", buffered=True)

    @p.step
    def take(m: State) -> str | None:
        place = ("state", m.mine % SLOTS)
        if m[place] == (m.mine, "ready"):  # a swap that fails need not be a fence
            return "reply" if p.cas(m, place, (m.mine, "ready"), (m.mine, "taken")) else None
        if m[place] == (m.mine, "revoked"):
            return "tell_early" if mistake == "the ring comes before the room" and not m.quiet else "skip"
        if m.quiet and mistake != "slots are freed in silence":
            m.quiet = False
            return "look_at_word" if mistake == "freed slots are told through the doorbell word" else "ring"
        return None

    @p.step
    def tell_early(m: State) -> str:
        m.quiet = m.event = True
        return "skip"

    @p.step
    def skip(m: State) -> str:
        m.mine += 1
        m.quiet = mistake != "the ring comes before the room"
        p.store(m, "tail", m.mine)
        return "take"

    @p.step
    def reply(m: State) -> str:
        p.store(m, "replies", p.load(m, "replies") + 1)
        return "release"

    @p.step
    def release(m: State) -> str:
        m.mine += 1
        p.store(m, "tail", m.mine)
        return "look_at_word"

    @p.step
    def look_at_word(m: State) -> str:
        p.fence(m)
        return "ring" if p.cas(m, "word", MANAGER, AWAKE) else "take"

    @p.step
    def ring(m: State) -> str:
        p.fence(m)  # a system call
        m.event = True
        return "take"

    return p


def parent(cancels: int, mistake: str | None) -> Party:
    p = Party("parent", "drain", buffered=True)
    late = mistake == "the eventfd is emptied after the look"

    @p.step
    def drain(m: State) -> str:
        m.collected = m.replies
        return "feed"

    @p.step
    def feed(m: State) -> str:
        if not m.line or m.head - m.tail >= SLOTS:
            return "empty" if late else "announce"
        p.fence(m)
        m["state", m.head % SLOTS] = (m.head, "ready")
        m.head += 1
        m.line -= 1
        return "feed"

    @p.step
    def empty(m: State) -> str:
        m.event = False
        return "announce"

    @p.step
    def announce(m: State) -> str:
        p.store(m, "word", MANAGER)
        return "look_again"

    @p.step
    def look_again(m: State) -> str:
        p.fence(m)
        return "epoll" if m.replies == m.collected else "drain"

    @p.step
    def epoll(m: State) -> str | None:
        if not m.event:
            return None
        m.event = late
        p.cas(m, "word", MANAGER, AWAKE)
        return "drain"

    @p.blow
    def epoll_or_cancel(m: State) -> str | None:
        """A user takes back all that has not started, and what waits in line may move up."""
        if m.cancelled == cancels or m.head == 0:
            return None
        m.cancelled += 1
        p.cas(m, "word", MANAGER, AWAKE)
        return "revoke"

    @p.step
    def revoke(m: State) -> str:
        for seq in range(m.head - 1, max(-1, m.head - SLOTS - 1), -1):
            if m["state", seq % SLOTS] == (seq, "ready"):
                m["state", seq % SLOTS] = (seq, "revoked")
                m.revoked += 1
        return "drain"

    return p


def build(mistake: str | None = None, tasks: int = 4, cancels: int = 2) -> Model:
    memory: dict[Hashable, object] = {"head": 0, "tail": 0, "mine": 0, "replies": 0, "collected": 0, "line": tasks}
    memory |= {"word": AWAKE, "event": False, "quiet": False, "cancelled": 0, "revoked": 0}
    memory |= {("state", s): (0, "empty") for s in range(SLOTS)}

    def bad(m: State) -> str | None:
        return "more outcomes than tasks" if m.replies + m.revoked > tasks else None

    def at_rest(m: State) -> str | None:
        if m.line:
            return f"{m.line} tasks wait in line while the worker sleeps"
        return None if m.collected + m.revoked == tasks else "a reply is not collected"

    return Model([worker(mistake), parent(cancels, mistake)], dict(memory), bad, at_rest)


MISTAKES = [
    "slots are freed in silence",
    "freed slots are told through the doorbell word",
    "the ring comes before the room",
    "the eventfd is emptied after the look",
]


def test_nothing_waits_in_line_while_the_worker_sleeps() -> None:
    explore(build())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    must_be_found(build(mistake), "wait in line while the worker sleeps")
