"""The first screen of both READMEs: what stands there, in which order, and that nothing in it is a placeholder."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]

ids = {"ids": lambda page: page.name}


@pytest.mark.parametrize("page", PAGES, **ids)
def test_the_first_screen_has_its_parts_in_order(page):
    screen = "\n".join(page.read_text().splitlines()[:40])
    parts = [
        "concurrent.futures",  # the sentence
        "pip install",
        "multitask copy",
        "multitask map",
        "```python",
        "99 results",
        "| multitask |",  # the head of the table
        "make bench",
        "`WorkerLost`",
        "`make run`",
        "README.zh-CN.md" if page.name == "README.md" else "README.md",
    ]
    places = [screen.find(part) for part in parts]
    assert -1 not in places, f"missing: {parts[places.index(-1)]}"
    assert places == sorted(places)


@pytest.mark.parametrize("page", PAGES, **ids)
def test_the_program_has_twelve_lines(page):
    program = re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[1]
    assert len(program.splitlines()) <= 12


@pytest.mark.parametrize("page", [*PAGES, ROOT / "bench" / "README.md"], **ids)
def test_no_figure_is_a_placeholder(page):
    assert "TODO" not in page.read_text()


@pytest.mark.parametrize("page", PAGES, **ids)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_fragments_of_changes_have_a_known_kind():
    for path in (ROOT / "changes").iterdir():
        if path.name != "README.md":
            assert re.fullmatch(r"[\w-]+\.(added|changed|fixed|removed|security)\.md", path.name), path.name
            assert path.read_text().strip()
