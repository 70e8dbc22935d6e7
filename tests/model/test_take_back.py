"""What waits behind a slow task is taken back, and no task ever starts twice, whoever dies and when."""

from dataclasses import replace

import pytest

from .checker import explore
from .lane import Scene, build
from .planted import must_be_found

QUIET = Scene(tasks=4, take_backs=2)
DEADLY = Scene(tasks=4, take_backs=2, deaths=1)

MISTAKES = {
    "the mark comes after the start": (QUIET, "started twice"),
    "take-back looks, then stores": (QUIET, "started twice"),
    "no number in the state word": (QUIET, "ran past|started twice|never settled"),
    "done before the reply is published": (DEADLY, "never settled"),
    "the dead are buried before their replies are read": (DEADLY, "although its reply was committed"),
    "what a dead worker had started runs again": (DEADLY, "started twice"),
}


@pytest.mark.parametrize("scene", [QUIET, DEADLY], ids=["quiet", "deadly"])
def test_each_task_starts_at_most_once_and_is_settled(scene: Scene) -> None:
    explore(build(scene))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    scene, symptom = MISTAKES[mistake]
    must_be_found(build(replace(scene, mistake=mistake)), symptom)
