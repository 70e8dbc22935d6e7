"""A user's program is understood by mypy --strict, from the types that the package ships."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "typing" / "program.py"


@pytest.fixture
def check(tmp_path):
    """Runs mypy on a program; its exit code and what it said."""
    pytest.importorskip("mypy", reason="mypy is not installed")

    def run(text):
        path = tmp_path / "program.py"
        path.write_text(text)
        flags = ["--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", "--no-error-summary"]
        done = subprocess.run(
            [sys.executable, "-m", "mypy", *flags, path], capture_output=True, text=True, cwd=tmp_path, timeout=300
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_queues_and_shared_memory_are_fully_typed(check):
    assert check(PROGRAM.read_text()) == (0, "")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_wrong_use_is_found(check):
    wrong = "from multitask import Counter, Queue\nQueue(maxsize='3')\nCounter(0).add('1')\nQueue().put_all([1])\n"
    code, said = check(wrong)
    assert code == 1
    assert [line.split(":")[1] for line in said.splitlines() if ": error:" in line] == ["2", "3", "4"]
