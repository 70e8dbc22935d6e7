"""G9: one Ctrl-C ends a program within 3 s with one traceback and no child left; so does the death of the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripts import METHODS, Script, started

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


# Counts the library's functions as the main thread calls them, and has the Ctrl-C come with the first call of one.
MOMENTS = """
import os, signal
HERE = os.path.dirname(multitask.__file__)
WANTED = sys.argv[2]
called = {}

def watch(frame, event, _):
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(HERE):
        return
    name = f"{os.path.relpath(code.co_filename, HERE)}:{code.co_name}"
    if name not in called:
        called[name] = None
        if name == WANTED:
            sys.setprofile(None)
            print("hit", flush=True)
            os.killpg(0, signal.SIGINT)

sys.setprofile(watch)
with Pool(2) as pool:
    for _ in range(3): pool.map(abs, range(1000))
    if WANTED:
        raise SystemExit(f"{WANTED} was not called")
sys.setprofile(None)
print(*called)
"""


# Where it spends most of its time, however few calls that are.
WAITS = (
    "_engine/workers/launching.py:launch",
    "_engine/workers/messages.py:receive",
    "_engine/workers/launching.py:send",
    "_engine/workers/process.py:_hand_over",
)


@pytest.mark.timeout(90)
def test_ctrl_c_at_any_moment_of_starting_and_working(tmp_path: Path) -> None:
    """Moments spread over the life of a small program, from the making of its pool to its work."""
    with started(tmp_path, HEAD + MOMENTS, "forkserver", "", flags=()) as script:
        assert script.end() == 0
        script.read_rest()
        called = script.out.split()
    # The end of the pool is no moment of starting and working: a second run would not get there in the same order.
    called = called[: called.index("pool.py:__exit__")]
    assert set(WAITS) < set(called), called
    slowest = 0.0
    for name in (*WAITS, *called[:: len(called) // 16]):
        with started(tmp_path, HEAD + MOMENTS, "forkserver", name, flags=()) as script:
            begun = script.wait_for("hit")
            assert script.end() == -signal.SIGINT, name
            slowest = max(slowest, time.monotonic() - begun)
            script.wait_until_alone(1.0)
            script.read_rest()
            assert script.err.count("Traceback (most recent call last)") == 1, name + script.err
    print(f"{len(called)} moments to choose from: ended after {slowest:.3f} s at most")
    assert slowest < EXIT_SECONDS


AT_EXIT = """
import atexit, os
atexit.register(print, "the first handler runs last", flush=True)
pool = Pool(2)
for i in range(10): pool.submit(busy, i)
atexit.register(print, "leaving", flush=True)
sys.stdout.write("not flushed\\n")
"""
ENDINGS = {"the last line": "", "sys.exit": "sys.exit(3)"}


def interrupted_at_exit(script: Script) -> float:
    """A Ctrl-C in the wait for the pools: the status is that of an interrupted program, however it was ending."""
    script.wait_for("begun", 2)
    script.wait_for("leaving")
    script.wait_until_asleep()
    begun = script.interrupt()
    assert script.end() == -signal.SIGINT
    ended = time.monotonic() - begun
    script.wait_until_alone(1.0)
    script.read_rest()
    assert ended < EXIT_SECONDS
    return ended


@pytest.mark.timeout(90)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("way", ["forkserver native", "fork native", "spawn native", "forkserver pipe"])
def test_a_ctrl_c_in_the_wait_at_exit_is_seen_outside(tmp_path: Path, way: str, ending: str) -> None:
    method, channel = way.split()
    with started(tmp_path, HEAD + AT_EXIT + ENDINGS[ending], method, channel=channel) as script:
        ended = interrupted_at_exit(script)
        print(f"{ending}, {way}: ended after {ended:.3f} s")
        assert "not flushed\n" in script.out
        assert script.out.endswith("the first handler runs last\n")
        assert script.err.startswith(
            "multitask: 10 unfinished tasks abandoned (Ctrl-C)\nTraceback (most recent call"
        ), script.err
        assert script.err.count("Traceback") == 1
        assert script.err.endswith("\nKeyboardInterrupt\n"), script.err
        assert len(script.err.splitlines()) <= 6, script.err


@pytest.mark.timeout(90)
def test_a_ctrl_c_typed_in_the_wait_at_exit_does_the_same(tmp_path: Path) -> None:
    with started(tmp_path, TERMINAL + HEAD + AT_EXIT, "forkserver", terminal=True) as script:
        script.wait_for("Ctrl-C stops")
        os.write(script.terminal, b"\x03")
        assert script.end() == -signal.SIGINT
        script.wait_until_alone(1.0)
        script.read_rest()
        assert script.out.count("Traceback (most recent call last)") == 1, script.out
        assert script.out.rstrip().splitlines()[-1] == "the first handler runs last"


@pytest.mark.timeout(90)
def test_a_second_ctrl_c_at_exit_changes_nothing(tmp_path: Path) -> None:
    # The second comes while the work of the first is done: right after it said what was abandoned.
    text = HEAD + AT_EXIT + "from multitask._engine import shutdown\n" + SECOND
    with started(tmp_path, text, "forkserver") as script:
        interrupted_at_exit(script)
        assert script.err.count("Traceback") == 1, script.err
        assert script.out.endswith("the first handler runs last\n")


SECOND = """
stop = shutdown._stop
def stopped_and_interrupted(*args):
    stop(*args)
    os.kill(os.getpid(), 2)
shutdown._stop = stopped_and_interrupted
"""


@pytest.mark.timeout(90)
def test_whoever_handles_ctrl_c_at_exit_decides_how_the_program_ends(tmp_path: Path) -> None:
    own = "import signal\ndef own(*_): raise KeyboardInterrupt\nsignal.signal(signal.SIGINT, own)\n"
    with started(tmp_path, HEAD + own + AT_EXIT + "sys.exit(3)", "forkserver") as script:
        script.wait_for("begun", 2)
        script.wait_for("leaving")
        script.wait_until_asleep()
        script.interrupt()
        assert script.end() == 3
        script.read_rest()
        assert script.err == "multitask: 10 unfinished tasks abandoned (Ctrl-C)\n"


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


AWAY = """
import os, subprocess

def away(x):
    # One that was executed, one that was only forked, one whose own parent has ended.
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    for orphan in (False, True):
        if os.fork() == 0:
            if not orphan or os.fork() == 0:
                os.setsid()
                print("begun", flush=True)
                time.sleep(1000)
            os._exit(0)
    busy(x)

pool = Pool(2)
for i in range(2): pool.submit(away, i)
time.sleep(1000)
"""


@pytest.mark.timeout(90)
@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("channel", ["native", "pipe"])
def test_what_left_its_workers_session_does_not_outlive_a_killed_parent_either(
    tmp_path: Path, channel: str, stopped: bool
) -> None:
    """Under forkserver: the server is there to look for them, even if somebody had stopped it."""
    with started(tmp_path, HEAD + AWAY, "forkserver", channel=channel) as script:
        script.wait_for("begun", 6)
        assert len(script.left()) >= 1 + 2 * 4
        if stopped:
            children = Path(f"/proc/{script.process.pid}/task/{script.process.pid}/children").read_text()
            os.kill(int(children), signal.SIGSTOP)
        script.process.kill()
        script.process.wait()
        gone = script.wait_until_alone(ORPHAN_SECONDS)
        print(f"{channel}: alone after {gone:.3f} s")


FORKING_UNDER_SIGNALS = """
import os, signal, sys, threading
from multitask._engine.workers import forking
import logging  # has hooks for forks, written in Python: after ours, so that what comes after a fork meets ours first

class Stop(Exception):
    pass

def stop(*_):
    raise Stop

swallowed = []
sys.unraisablehook = swallowed.append  # what is raised in the middle of a fork goes there
signal.signal(signal.SIGALRM, stop)
rounds = 0
while len(swallowed) < 20:
    rounds += 1
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0003 + 0.0001 * (rounds % 7))
        for _ in range(20):
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
    except Stop:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    found = []
    thread = threading.Thread(target=lambda: found.append(forking.gate.acquire(blocking=False)))
    thread.start()
    thread.join()
    if not found[0]:
        sys.exit("a fork that a signal disturbed left the gate shut")
    forking.gate._at_fork_reinit()  # the thread that holds it has ended
"""


def test_a_signal_in_the_middle_of_a_fork_leaves_the_gate_open() -> None:
    """Its handler raises while the user's own os.fork() calls the hooks: Python swallows that and goes on."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING_UNDER_SIGNALS], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
