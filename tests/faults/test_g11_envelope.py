"""G11 for envelopes: what a script defines goes to processes that may not be able to import it, and comes back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "support" / "envelope_program.py"
METHODS = ["fork", "spawn", "forkserver"]


def run(command, ways="", text=None):
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        input=text,
        env={**os.environ, "ENVELOPE": ways},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("method", METHODS)
def test_to_a_process_of_multiprocessing_and_back(method):
    run([PROGRAM, "process", method])


@pytest.mark.parametrize("method", METHODS)
def test_to_a_pools_worker_and_back(method):
    run([PROGRAM, "pool", method])


@pytest.mark.parametrize("ways", ["pool forkserver", "pool spawn", "pool fork", "process fork"])
def test_from_a_command_line(ways):
    run(["-c", PROGRAM.read_text()], ways)


@pytest.mark.parametrize("ways", ["pool forkserver", "process fork"])
def test_from_a_script_on_stdin(ways):
    run(["-"], ways, PROGRAM.read_text())
