"""The table of differences is current, and each of its rows has a test that exists."""

import differences
import pytest
import testids

ROWS = differences.load()


def test_the_page_is_made_from_the_list():
    assert differences.PAGE.read_text() == differences.page(ROWS), "run tools/differences.py"


def test_the_readme_is_made_from_the_list():
    text = differences.README.read_text()
    assert text == differences.readme(ROWS, text), "run tools/differences.py"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_row_has_a_test(row):
    assert testids.missing(row.test) is None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_row_fits_into_a_table(row):
    for text in (row.name, row.stdlib, row.here, row.why, row.old):
        assert "\n" not in text and "|" not in text
        assert text == text.strip() != ""
