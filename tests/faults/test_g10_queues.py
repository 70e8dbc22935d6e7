"""G10 for queues: made, used and left by the killed a thousand times, they leave nothing and say nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import FORKS_SAID

from multitask._engine.queueing import choice

PROGRAM = Path(__file__).parent.parent / "support" / "queue_cycles.py"


def run(*args: object) -> tuple[dict[str, int], dict[str, int]]:
    if "native" in args and not choice.native():
        pytest.skip("the native queue is not built")
    done = subprocess.run(
        [sys.executable, *FORKS_SAID, str(PROGRAM), *map(str, args)], capture_output=True, text=True, timeout=110
    )
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


@pytest.mark.parametrize("native", ["1", "0"])
def test_a_queue_that_lives_until_the_interpreter_ends_lets_it_end(native: str) -> None:
    """Threads stand still by then, and one of them may hold a lock of the library's."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIVES_ON],
        env={**os.environ, "MULTITASK_NATIVE": native},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


LIVES_ON = """
import os
import pickle
import sys
import threading
import types
from multitask import Counter, Queue
from multitask._engine import family
from multitask._engine.workers import forking

queue, bounded, counter = Queue(), Queue(3), Counter(0)
family.lend(0)
sent = [pickle.dumps(thing) for thing in (queue, bounded, counter)]
read = [pickle.loads(data) for data in sent]

class Late:
    def __del__(self, disown=forking.disown, dup=os.dup):
        disown(dup(0))

# The thread below keeps this module's names alive; those of another one go in the end.
other = sys.modules["other"] = types.ModuleType("other")
other.late = Late()
del other
held = threading.Event()

def hold():
    with forking.gate:
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
print("end", flush=True)
"""
