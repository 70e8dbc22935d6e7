"""Every program in examples/ runs as people run it and asserts its own outcome."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
@pytest.mark.parametrize("native", ["1", "0"], ids=["native", "pipes"])
def test_example_runs(example, native, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", example],
        cwd=tmp_path,
        env={**os.environ, "MULTITASK_NATIVE": native},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip(), "an example shows what it does"
    assert done.stderr == ""


def test_there_are_examples_and_their_names_carry_the_chapter():
    assert EXAMPLES
    for example in EXAMPLES:
        assert re.fullmatch(r"\d\d_[a-z_]+\.py", example.name)
