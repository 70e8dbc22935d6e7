"""A running task is stopped by killing its worker, and no other task pays for it."""

from dataclasses import replace

import pytest

from .checker import explore
from .lane import Scene, build
from .planted import must_be_found

ALONE = Scene(tasks=3, condemns=1)
CROWDED = Scene(tasks=4, condemns=1, take_backs=2, deaths=1)

MISTAKES = {
    "kill without condemning": (ALONE, "innocent"),
    "a condemned worker goes on": (ALONE, "innocent"),
    "no number in the state word": (Scene(tasks=4, condemns=1), "innocent|ran past|never settled|said to be"),
    "the outcome of a condemned task is left open": (ALONE, "said to be cancelled and is result"),
}


@pytest.mark.parametrize("scene", [ALONE, CROWDED], ids=["alone", "crowded"])
def test_only_the_condemned_task_is_stopped(scene: Scene) -> None:
    explore(build(scene))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    scene, symptom = MISTAKES[mistake]
    must_be_found(build(replace(scene, mistake=mistake)), symptom)
