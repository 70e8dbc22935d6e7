"""G10: pools made and killed a thousand times leave what the first one left, and say nothing on stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "support" / "fault_cycles.py"


@pytest.mark.slow
@pytest.mark.timeout(115)
@pytest.mark.parametrize(
    ("method", "channel", "cycles"),
    [("fork", "native", 1000), ("forkserver", "native", 200), ("fork", "pipe", 100), ("spawn", "native", 10)],
)
def test_pools_made_and_killed_leave_nothing(method: str, channel: str, cycles: int) -> None:
    command = [sys.executable, str(PROGRAM), method, channel, str(cycles)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.stderr == "" and done.returncode == 0
    first, last = json.loads(done.stdout)
    print(f"\n{cycles} cycles of {method} over {channel}: {last}")
    assert last == first
