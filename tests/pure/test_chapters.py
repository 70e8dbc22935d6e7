"""The chapters that are in scope have an example and a page, and the tables say what is there."""

import chapters
import pytest

IN_SCOPE = (4, 7, 8, 9, 10, 11, 12, 14, 15, 20, 22)


def test_there_are_22_chapters():
    assert [chapter.number for chapter in chapters.chapters()] == list(range(1, 23))


@pytest.mark.parametrize("number", IN_SCOPE)
def test_a_chapter_in_scope_has_its_example_and_its_page(number):
    chapter = chapters.chapters()[number - 1]
    assert chapter.example is not None, f"examples/{number:02}_*.py is missing"
    assert chapter.page is not None, f"docs/chapters/{number:02}-*.md is missing"


@pytest.mark.parametrize("number", IN_SCOPE)
def test_the_page_names_its_example(number):
    chapter = chapters.chapters()[number - 1]
    assert f"examples/{chapter.example.name}" in chapter.page.read_text()


@pytest.mark.parametrize("page", chapters.PAGES, ids=lambda page: page.relative_to(chapters.ROOT).as_posix())
def test_the_written_table_is_current(page):
    assert page.read_text() == chapters.replaced(page), "tools/chapters.py --write puts it right"
