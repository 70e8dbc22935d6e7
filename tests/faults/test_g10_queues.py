"""G10 for queues: made, used and left by the killed a thousand times, they leave nothing and say nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from multitask._engine.queueing import choice

PROGRAM = Path(__file__).parent.parent / "support" / "queue_cycles.py"


def run(*args: object) -> tuple[dict[str, int], dict[str, int]]:
    if "native" in args and not choice.native():
        pytest.skip("the native queue is not built")
    done = subprocess.run([sys.executable, str(PROGRAM), *map(str, args)], capture_output=True, text=True, timeout=110)
    assert done.stderr == "" and done.returncode == 0
    first, last = json.loads(done.stdout)
    print(f"\n{' '.join(map(str, args))}: {last}")
    return first, last


@pytest.mark.slow
@pytest.mark.timeout(115)
@pytest.mark.parametrize("flavour", ["native", "file"])
def test_a_thousand_queues_left_by_the_killed_leave_nothing(flavour):
    first, last = run(flavour, 1000)
    assert last == first


@pytest.mark.slow
@pytest.mark.timeout(115)
@pytest.mark.parametrize(("flavour", "count"), [("native", 100_000), ("file", 20_000)])
def test_queues_made_and_dropped_under_a_limit_of_1024_open_files(flavour, count):
    first, last = run(flavour, count, "drop")
    assert last == first
