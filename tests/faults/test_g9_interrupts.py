"""G9: one Ctrl-C ends a program within 3 s with one traceback and no child left; so does the death of the parent."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from scripts import METHODS, started

EXIT_SECONDS = 3.0
ORPHAN_SECONDS = 2.0

HEAD = """
import itertools, sys, threading, time, multitask
METHOD = sys.argv[1]

def busy(x):
    print("begun", flush=True)
    time.sleep(1000)

def late(x):
    print("begun", flush=True)
    time.sleep(1000)

def starting():
    print("begun", flush=True)
    time.sleep(1000)

def Pool(*args):
    return multitask.Pool(*args, start_method=METHOD)

"""

# Each prints "begun" when it is where the Ctrl-C is to hit it.
PLACES = {
    "map": "with Pool(2) as pool: pool.map(busy, range(8))",
    "map without with": "pool = Pool(2); pool.map(busy, range(8))",
    "result": "with Pool(2) as pool: pool.submit(busy, 1).result()",
    "imap": "with Pool(2) as pool:\n    for _ in pool.imap(busy, itertools.count()): pass",
    "a loop of submits": "with Pool(2) as pool:\n    print('begun', flush=True)\n    while True: pool.submit(abs, 1)",
    "join": "pool = Pool(2)\nfor i in range(10): pool.submit(busy, i)\npool.close(); pool.join()",
    "leaving with": "with Pool(2) as pool:\n    for i in range(10): pool.submit(busy, i)",
    "starting workers": "print('begun', flush=True)\nwhile True:\n    pool = Pool(2); pool.close(); pool.join()",
    "initializers": "with Pool(2, starting) as pool: pool.map(abs, range(8))",
    "a callback": "with Pool(2) as pool: pool.apply_async(abs, (1,), callback=late).get()",
    "a callback at the end": "with Pool(2) as pool: pool.apply_async(abs, (1,), callback=late)",
    "an executor": "with multitask.Executor(2, start_method=METHOD) as pool: pool.submit(busy, 1).result()",
    "leaving an executor": "with multitask.Executor(2, start_method=METHOD) as pool: pool.submit(busy, 1)",
}


def interrupt(folder: Path, place: str, method: str, channel: str) -> None:
    # As users run it: a Ctrl-C in the middle of an import makes CPython itself warn of an unclosed file.
    with started(folder, HEAD + PLACES[place], method, channel=channel, flags=()) as script:
        script.wait_for("begun")
        begun = script.interrupt()
        assert script.end() == -signal.SIGINT
        ended = time.monotonic() - begun
        alone = script.wait_until_alone(1.0)
        script.read_rest()
        print(f"{place}, {method}, {channel}: ended after {ended:.3f} s, alone {alone:.3f} s later")
        assert ended < EXIT_SECONDS
        assert script.err.count("Traceback (most recent call last)") == 1, script.err
        assert script.err.rstrip().splitlines()[-1].startswith(("KeyboardInterrupt", "multitask: ")), script.err


@pytest.mark.timeout(90)
@pytest.mark.parametrize("place", PLACES)
def test_one_ctrl_c_ends_the_program_with_one_traceback(tmp_path: Path, place: str) -> None:
    interrupt(tmp_path, place, "forkserver", "native")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("place", ["map", "a loop of submits", "starting workers", "leaving with"])
@pytest.mark.parametrize("way", ["fork native", "spawn native", "fork pipe", "forkserver pipe", "spawn pipe"])
def test_one_ctrl_c_under_every_start_method_and_channel(tmp_path: Path, place: str, way: str) -> None:
    interrupt(tmp_path, place, *way.split())


@pytest.mark.timeout(90)
def test_ctrl_c_typed_at_a_terminal_does_the_same(tmp_path: Path) -> None:
    # The workers stand in groups of their own, so the terminal's signal reaches the program alone.
    with started(tmp_path, TERMINAL + HEAD + PLACES["map"], "forkserver", terminal=True) as script:
        script.wait_for("begun", 2)
        begun = time.monotonic()
        os.write(script.terminal, b"\x03")
        assert script.end() == -signal.SIGINT
        assert time.monotonic() - begun < EXIT_SECONDS
        script.wait_until_alone(1.0)
        script.read_rest()
        assert script.out.count("Traceback (most recent call last)") == 1, script.out


# A session leader without a terminal gets the first that it opens.
TERMINAL = "import os; os.close(os.open(os.ttyname(0), os.O_RDWR))\n"


@pytest.mark.timeout(90)
def test_ctrl_c_at_any_moment_of_starting_and_working(tmp_path: Path) -> None:
    """Moments spread over the life of a small program, from before its pool to after it."""
    text = HEAD + "print('begun', flush=True)\nwith Pool(2) as pool:\n    while True: pool.map(abs, range(1000))"
    slowest = 0.0
    for step in range(12):
        with started(tmp_path, text, "forkserver", flags=()) as script:
            script.wait_for("begun")
            time.sleep(step * 0.01)  # decides where it is hit, not what must come of it
            begun = script.interrupt()
            assert script.end() == -signal.SIGINT
            slowest = max(slowest, time.monotonic() - begun)
            script.wait_until_alone(1.0)
            script.read_rest()
            assert script.err.count("Traceback (most recent call last)") == 1, script.err
    print(f"12 moments: ended after {slowest:.3f} s at most")
    assert slowest < EXIT_SECONDS


PARENTS = {
    "busy": "pool = Pool(2)\nfor i in range(10): pool.submit(busy, i)\ntime.sleep(1000)",
    "idle": "pool = Pool(2)\npool.map(abs, [1, 2])\nprint('begun begun', flush=True)\ntime.sleep(1000)",
    "in a thread that ended": """
pools = []
def make():
    pool = Pool(2)
    for i in range(10): pool.submit(busy, i)
    pools.append(pool)
thread = threading.Thread(target=make)
thread.start()
thread.join()
time.sleep(1000)
""",
}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("channel", ["native", "pipe"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("doing", PARENTS)
def test_no_worker_outlives_a_killed_parent(tmp_path: Path, doing: str, method: str, channel: str) -> None:
    with started(tmp_path, HEAD + PARENTS[doing], method, channel=channel) as script:
        script.wait_for("begun", 2)
        assert len(script.left()) >= 2
        script.process.kill()
        script.process.wait()
        gone = script.wait_until_alone(ORPHAN_SECONDS)
        print(f"{doing}, {method}, {channel}: alone after {gone:.3f} s")
