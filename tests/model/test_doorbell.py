"""The doorbell, the collector token and the leader: nobody sleeps through what it waits for."""

from dataclasses import replace

import pytest

from .checker import explore
from .doorbell import Scene, build
from .planted import must_be_found

SCENES = {
    "a caller waits": Scene(),
    "the worker is killed": Scene(deaths=1),
    "two callers wait for one task": Scene(callers=(0, 0), deaths=1),
    "another thread cancels a running task": Scene(cancelled=0, deaths=1),
    "another thread cancels a waiting task": Scene(callers=(1,), cancelled=1, deaths=1),
    "a signal interrupts the wait": Scene(interrupts=True),
    "a signal handler waits itself": Scene(interrupts=True, nested=True),
    "two workers ring at once": Scene(workers=2),
}

LARGE_SCENES = {
    "one of two workers is killed": Scene(workers=2, deaths=1),
    "one of two workers is stopped": Scene(workers=2, stops=True),
}

MISTAKES = {
    "worker does not fence before it reads the word": (Scene(), "still waits|not settled|in its ring"),
    "sleeper does not fence before its second look": (Scene(), "still waits|not settled|in its ring"),
    "manager sleeps without a second look": (Scene(callers=()), "in its ring"),
    "leader sleeps without a second look": (Scene(), "in its ring"),
    "leader leaves without a last look": (Scene(workers=2), "in its ring"),
    "leader leaves the word to nobody": (Scene(workers=2), "in its ring"),
    "leader's second look leaves out its target": (Scene(callers=(1,), cancelled=1), "waits for a settled task"),
    "canceller does not wake the leader": (Scene(callers=(1,), cancelled=1), "waits for a settled task"),
    "manager does not wake the leader": (Scene(deaths=1), "waits for a settled task"),
    "leader is woken only when the word says so": (Scene(deaths=1), "waits for a settled task"),
    "manager resets a word it did not set": (Scene(workers=2), "in its ring|still waits"),
    "the pidfd is not watched": (Scene(deaths=1), "not settled|in its ring"),
    "collect without the token": (Scene(), "counted twice"),
    "two leaders": (Scene(callers=(0, 0)), "waits"),
    "a signal handler runs while its thread leads": (Scene(interrupts=True, nested=True), "in its ring"),
    "a ringer says awake for the sleeper": (Scene(workers=2, stops=True), "in its ring|still waits"),
    "a ringer that was overtaken trusts the other": (Scene(workers=2, stops=True), "in its ring|still waits"),
}


@pytest.mark.parametrize("name", SCENES)
def test_nobody_sleeps_through_its_reply(name: str) -> None:
    explore(build(SCENES[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_SCENES)
def test_two_workers_of_which_one_falls_silent(name: str) -> None:
    explore(build(LARGE_SCENES[name]), limit=300_000)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    scene, symptom = MISTAKES[mistake]
    must_be_found(build(replace(scene, mistake=mistake)), symptom)
