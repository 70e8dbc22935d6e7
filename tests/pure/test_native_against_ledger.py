"""The native core does what the pure ledger says, on random sequences of events.

The sequences and the comparison stand in support/spec_and_native.py. They run in processes of their own: the ends of
lanes that this test holds for its workers are made to last as long as a worker, and a crash should name its sequence.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from multitask import _native

DRIVER = Path(__file__).parents[1] / "support" / "spec_and_native.py"
SEQUENCES = 1000  # in each process

pytestmark = pytest.mark.skipif(not _native.available, reason=_native.why_not)


@pytest.mark.parametrize("first", [0, 10_000, 20_000, 30_000])
def test_both_say_the_same_of_every_task(first: int) -> None:
    """Where each task waits, who holds it, the order of starts, the outcomes, the counts."""
    command = [sys.executable, DRIVER, str(first), str(SEQUENCES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"run {' '.join(map(str, command))}\n{done.stdout}{done.stderr}"


def test_every_event_happens_often() -> None:
    """The sequences reach what they are meant to reach."""
    from collections import Counter

    import spec_and_native

    seen: Counter[str] = Counter()
    for seed in range(SEQUENCES):
        seen.update(name for name, _, _ in spec_and_native.draw(seed)[2])
    assert seen.keys() == spec_and_native.EVENTS.keys()
    assert min(seen.values()) > 200
