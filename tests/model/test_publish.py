"""A ring from one producer to one consumer: slots, bytes, wraps, numbers; nothing torn, lost or read twice."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from .checker import DEAD, END, Model, Party, State, explore
from .planted import must_be_found

SLOTS = 2
BYTES = 4


def place_for(m: State, p: Party, length: int, mistake: str | None) -> int | None:
    """Where *length* bytes may go: in order, contiguous, padding at the end; the code of mt_reserve()."""
    head, tail, position = m.head, m.tail, m.next_position
    if head - tail >= SLOTS and mistake != "more messages than slots":
        return None
    empty = head - tail <= 1 if mistake == "back to the front while one is still read" else head == tail
    if empty:
        return int((position + BYTES - 1) // BYTES * BYTES)
    offset = position % BYTES
    if offset + length > BYTES and mistake != "no padding at the end":
        position += BYTES - offset
    oldest = p.load(m, ("slot", tail % SLOTS))[1]
    if position + length - oldest > BYTES and mistake != "bytes are not counted":
        return None
    return int(position)


def producer(messages: int, mistake: str | None) -> Party:
    p = Party("producer", "reserve", mortal=True, buffered=True)
    early = mistake == "commit word before the bytes"

    def reserve_with(length: int) -> None:
        def reserve(m: State) -> str | None:
            if m.head == messages:
                return END
            position = place_for(m, p, length, mistake)
            if position is None:
                return None
            p.store(m, ("slot", m.head % SLOTS), (length, position), release=False)
            m.filling, m.size, m.written = position, length, 0
            return "commit" if early else "fill"

        p.steps.setdefault("reserve", []).append(reserve)

    reserve_with(1)
    reserve_with(2)
    if mistake == "bytes are not counted":
        reserve_with(3)

    @p.step
    def fill(m: State) -> str:
        offset = m.filling % BYTES + m.written
        p.store(m, ("byte", offset), m.head, release=False)
        m.written += 1
        if m.written < m.size:
            return "fill"
        return "advance" if early else "commit"

    @p.step
    def commit(m: State) -> str:
        number = 0 if mistake == "no number in the state word" else m.head
        p.store(m, ("state", m.head % SLOTS), (number, "ready"), release=mistake != "commit word is a plain store")
        return "fill" if early else "advance"

    @p.step
    def advance(m: State) -> str:
        m.next_position = m.filling + m.size
        m.head += 1
        m.written = 0
        return "reserve"

    return p


def consumer(mistake: str | None) -> Party:
    p = Party("consumer", "look")

    @p.step
    def look(m: State) -> str | None:
        number = 0 if mistake == "no number in the state word" else m.tail
        if m["state", m.tail % SLOTS] != (number, "ready"):
            return None
        m.reading = 0
        if mistake == "slot is freed before it is read":
            m.tail += 1
        return "read"

    @p.step
    def read(m: State) -> str:
        seq = m.tail - (mistake == "slot is freed before it is read")
        length, position = m["slot", seq % SLOTS]
        if m["byte", position % BYTES + m.reading] != seq:
            m.torn = True
        m.reading += 1
        return "read" if m.reading < length else "release"

    @p.step
    def release(m: State) -> str:
        m.reading = 0
        if mistake != "slot is freed before it is read":
            m.tail += 1
        return "look"

    return p


def build(mistake: str | None = None, messages: int = 4, deaths: int = 1) -> Model:
    memory: dict[Hashable, object] = {"head": 0, "tail": 0, "next_position": 0, "torn": False}
    memory |= {"filling": 0, "size": 0, "written": 0, "reading": 0}
    for slot in range(SLOTS):
        memory |= {("state", slot): (0, "empty"), ("slot", slot): (0, 0)}
    memory |= {("byte", offset): None for offset in range(BYTES + 3)}

    def bad(m: State) -> str | None:
        if m["byte", BYTES] is not None:
            return "a message runs over the end of the area"
        return "a torn message was read" if m.torn else None

    def at_rest(m: State) -> str | None:
        expected = m.head if m["at", "producer"] == DEAD else messages
        # Killed between the commit word and its own count: one more was published.
        return None if m.tail in (expected, m.head + 1) else f"only {m.tail} of {expected} arrived"

    return Model([producer(messages, mistake), consumer(mistake)], dict(memory), bad, at_rest, deaths)


MISTAKES = {
    "commit word before the bytes": "torn",
    "commit word is a plain store": "torn",
    "no number in the state word": "torn|arrived",
    "more messages than slots": "torn|arrived",
    "bytes are not counted": "torn",
    "no padding at the end": "over the end",
    "back to the front while one is still read": "torn",
    "slot is freed before it is read": "torn",
}


def test_every_message_arrives_whole_and_once() -> None:
    explored = explore(build())
    assert explored.good_ends > 1


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    must_be_found(build(mistake), MISTAKES[mistake])
