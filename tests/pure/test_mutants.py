"""The list of planted faults stays true: each still fits the sources, and its test exists."""

import mutants
import pytest
import testids

FAULTS = mutants.load()


def test_names_are_unique():
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_fault_can_still_be_planted(fault):
    assert fault.old != fault.new
    assert fault.fits(mutants.ROOT) is None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_test_that_must_turn_red_exists(fault):
    if not fault.test.startswith("make "):
        assert testids.missing(fault.test) is None


def test_a_missing_test_is_named():
    assert (
        testids.missing("tests/pure/test_mutants.py::test_nowhere") == "tests/pure/test_mutants.py has no test_nowhere"
    )
    assert testids.missing("tests/pure/nowhere.py::test_x") == "there is no file tests/pure/nowhere.py"
    assert testids.missing("tests/pure/test_mutants.py::test_names_are_unique[x]") is None
