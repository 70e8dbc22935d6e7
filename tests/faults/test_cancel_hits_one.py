"""Cancelling a running task ends the worker that runs it and no other one."""

import os
import time

import pytest
from faults import FORKING, ended, variant, wait_until


def wait_for(mark, gate):
    """Show that it runs, and end when *gate* is there."""
    with open(mark, "w"):
        pass
    while not os.path.exists(gate):
        time.sleep(0.002)
    return mark


@pytest.mark.parametrize("hit", [0, 1])
@pytest.mark.parametrize("name", FORKING)
def test_the_neighbour_of_a_cancelled_task_goes_on(name, hit, tmp_path):
    marks = [str(tmp_path / "first"), str(tmp_path / "second")]
    gate = str(tmp_path / "gate")
    with variant(name) as make, ended(make(2)) as pool:
        tasks = [pool.submit(wait_for, mark, gate) for mark in marks]
        wait_until(lambda: all(map(os.path.exists, marks)))
        assert tasks[hit].cancel()
        open(gate, "w").close()
        assert tasks[1 - hit].result(60) == marks[1 - hit]
        assert tasks[hit].cancelled()
