"""A cell in shared memory is nobody else's while somebody uses it, whoever forks, joins or dies, and where."""

from dataclasses import replace

import pytest

from .arena import Scene, build
from .checker import explore
from .planted import must_be_found

SCENES = {
    "one reader": Scene(("first",)),
    "read again": Scene(("first", "again")),
    "sends on": Scene(("first",), passes_on=True),
    "joins": Scene(joins="fresh"),
    "joins in a dead one's place": Scene(joins="dead"),
    "reads while another joins": Scene(("first",), joins="dead"),
    "forks": Scene(forks="own", claims=0, deaths=2),
    "forks and lends": Scene(forks="lent", claims=0, deaths=2),
}
LIMIT = 1_500_000

MISTAKES = {
    "the look before the bit": ("read again", "somebody else's"),
    "the claim before the bit": ("one reader", "on its way was refused"),
    "the bits before the word": ("sends on", "on its way was refused"),
    "one look at the bits": ("read again", "somebody else's"),
    "claims do not count": ("one reader", "on its way was refused"),
    "members are counted late": ("joins", "somebody else's"),
    "the living are buried": ("read again", "somebody else's"),
    "no lock on the grave": ("joins in a dead one's place", "somebody else's"),
    "the child joins after the fork": ("forks", "somebody else's"),
    "the bits are not copied": ("forks", "somebody else's"),
    "a lent membership ends": ("forks and lends", "somebody else's"),
}


@pytest.mark.parametrize("scene", SCENES)
def test_a_cell_in_use_is_never_handed_out(scene: str) -> None:
    print(explore(build(SCENES[scene]), LIMIT))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    scene, symptom = MISTAKES[mistake]
    must_be_found(build(replace(SCENES[scene], mistake=mistake)), symptom, LIMIT)
