"""The queue's commits, its growing and shrinking, and the repairs after a death at any step: no message is torn, comes
twice or is lost but with its taker; no memory is touched that is not there, none is left that nobody reaches."""

from __future__ import annotations

import pytest

from .checker import explore
from .planted import must_be_found
from .queue_ring import build

LIMIT = 900_000

MISTAKES = {
    "word before the frame": "is read at|not there",
    "word is no release": "is read at|not there",
    "word before the put state": "is read at|not there|out of order|left|nobody's|'NoneType'",
    "one put state only": "is read at|not there|nobody's|left",
    "one get state only": "is read at|not there|out of order|taken",
    "freed before the copy": "is read at|not there|out of order",
    "producer does not look how far the head is": "is read at|not there|out of order",
    "no place is kept for NEXT": "is read at|not there|out of order",
    "given back before the word": "not there|is read at",
    "put repair cuts nothing off": "nobody's",
    "get repair gives nothing back": "nobody's",
}


@pytest.mark.parametrize(("producers", "messages", "consumers"), [(1, 4, 1), (1, 3, 2), (2, 1, 2)])
def test_messages_survive_a_death_at_any_step(producers: int, messages: int, consumers: int) -> None:
    explored = explore(build(producers, messages, consumers), LIMIT)
    print(explored)


def test_repairs_survive_a_second_death() -> None:
    print(explore(build(1, 3, 2, deaths=2), LIMIT))


def test_an_empty_ring_is_retired() -> None:
    print(explore(build(1, 2, 1, retires=True), LIMIT))
    print(explore(build(1, 2, 2, retires=True), LIMIT))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    parties = (2, 1, 1) if mistake == "one put state only" else (1, 3, 2)
    must_be_found(build(*parties, mistake), MISTAKES[mistake], LIMIT)


RETIRING = {
    "retires without the put lock": "not there|is read at|left|taken|out of order|nobody's",
    "get repair gives back up to the tail": "not there|is read at|left",
}


@pytest.mark.parametrize("mistake", RETIRING)
def test_the_checker_finds_in_retiring(mistake: str) -> None:
    must_be_found(build(1, 2, 2, mistake, retires=True), RETIRING[mistake], LIMIT)
