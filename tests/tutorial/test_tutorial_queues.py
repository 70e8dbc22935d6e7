"""The programs of chapters 9, 10 and 20 as people type them, without a guard; only the import is ours.

Where the order is the scheduler's, lines are compared as a multiset. ``Process`` is the standard library's: unguarded
it works by fork, the other methods import the script again and need the guard, which is put around it here.
"""

import os
import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
METHODS = ("fork", "forkserver", "spawn")
NATIVE = ("1", "0")

EXPECTED = {
    "09_methods": [
        "False", "True", "the queue is full, it has 3 messages Full", "the queue is full, it has 3 messages",
        "message 1", "message 2", "message 3", "Empty True",
    ],
    "09_write_and_read": [
        *(f"Put {c} to queue..." for c in "ABC"), *(f"Get {c} from queue." for c in "ABC"), "all is written and read",
    ],
    "09_endless_reader": [*(f"Get {c} from queue." for c in "ABC"), "done 0"],
    "10_pool_and_queue": [
        "writer starts, its parent is True", "reader starts", *(f"reader got {c}" for c in "multitask"), "end",
    ],
    "10_manager": [*(f"reader got {c}" for c in "abc"), "end"],
    "10_both_at_once": ["19900"],
    "20_join": [*(f"Working on {n}" for n in range(5)), "All work completed"],
}  # fmt: skip


def typed(name, method=None, guarded=False):
    text = (PROGRAMS / f"{name}.py").read_text()
    if method is not None:
        text = re.sub(r"Pool\((\d+)\)", rf"Pool(\1, start_method={method!r})", text)
    if guarded:
        head, _, main = text.partition("\nq = ")
        start = f"import multiprocessing\nmultiprocessing.set_start_method({method!r})\nq = {main}"
        text = head + "\nif __name__ == '__main__':\n" + textwrap.indent(start, "    ")
    return text


def run(text, folder, native):
    script = folder / "program.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env={**os.environ, "MULTITASK_NATIVE": native},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("native", NATIVE, ids=["native", "portable"])
@pytest.mark.parametrize("name", ["09_methods", "20_join"])
def test_a_program_of_one_process(name, native, tmp_path):
    assert run(typed(name), tmp_path, native) == EXPECTED[name]


@pytest.mark.parametrize("native", NATIVE, ids=["native", "portable"])
def test_producer_and_consumers(native, tmp_path):
    lines = run(typed("20_producer_and_consumer"), tmp_path, native)
    text = "\n".join(lines)  # two threads that print at once may share a line, but each line begins with a letter
    assert re.findall(r"made (\d+)", text) == [str(n) for n in range(1, 31)]
    assert Counter(re.findall(r" took product (\d+)", text)) == Counter(str(n) for n in range(1, 31))
    assert lines[-1] == "left over: 0"


@pytest.mark.parametrize("native", NATIVE, ids=["native", "portable"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["09_write_and_read", "09_endless_reader"])
def test_a_program_with_processes(name, method, native, tmp_path):
    lines = run(typed(name, method, guarded=True), tmp_path, native)
    assert lines == EXPECTED[name]
    if method == "fork" and sys.version_info < (3, 14):  # the default there
        assert run(typed(name), tmp_path, native) == EXPECTED[name]


@pytest.mark.parametrize("native", NATIVE, ids=["native", "portable"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["10_pool_and_queue", "10_manager", "10_both_at_once"])
def test_a_program_with_a_pool(name, method, native, tmp_path):
    assert run(typed(name, method), tmp_path, native) == EXPECTED[name]
