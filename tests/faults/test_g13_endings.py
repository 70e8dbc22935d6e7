"""G13: however a script ends, its pools' work is finished, or what was not is said; no unread failure is silent."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from scripts import CHANNELS, HANG_SECONDS, METHODS, Script, run, started

pytestmark = pytest.mark.timeout(90)

HEAD = """
import itertools, os, signal, sys, threading, time, multitask
METHOD = sys.argv[1]

def ran(x):
    print("ran", x, flush=True)
    return x

def fail(x):
    raise ValueError(f"number {x}")

def hang(x):
    print("hangs", flush=True)
    time.sleep(1000)

def hold(path):
    print("holds", flush=True)
    with open(path) as file:
        file.read(1)
    print("let go", flush=True)

def Pool(processes=2, **more):
    return multitask.Pool(processes, start_method=METHOD, **more)

"""


def ends(folder: Path, text: str, code: int = 0, *, method: str = "forkserver", **options: object) -> Script:
    script = run(folder, HEAD + text, method, **options)
    assert script.process.returncode == code, script.out + script.err
    return script


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("method", METHODS)
def test_a_script_that_ends_finishes_its_work(tmp_path: Path, method: str, channel: str) -> None:
    text = "pool = Pool()\nfor i in range(500): pool.submit(ran, i)\nother = Pool(1)\nother.map_async(ran, range(20))"
    script = ends(tmp_path, text, method=method, channel=channel)
    assert script.out.count("ran") == 520
    assert script.err == ""


def test_it_says_on_a_terminal_after_a_second_what_it_waits_for(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    text = "pool = Pool()\nfor i in range(2): pool.submit(hold, sys.argv[2])\nprint('last line', flush=True)"
    with started(tmp_path, HEAD + text, "forkserver", str(gate), terminal=True) as script:
        began = script.wait_for("last line")
        said = script.wait_for("multitask: waiting for")
        assert 0.9 < said - began < 2.5
        with open(gate, "w") as file:
            file.write("..")
        assert script.end() == 0
        script.read_rest()
        assert "multitask: waiting for 2 unfinished tasks (hold); Ctrl-C stops\n" in script.out
        assert script.out.count("let go") == 2
        assert script.out.count("waiting for") == 1


def test_it_says_nothing_where_nobody_looks(tmp_path: Path) -> None:
    assert ends(tmp_path, "pool = Pool()\npool.submit(time.sleep, 1.3)").err == ""


@pytest.mark.parametrize("method", METHODS)
def test_the_first_ctrl_c_ends_the_wait(tmp_path: Path, method: str) -> None:
    text = "pool = Pool()\nfor i in range(10): pool.submit(hang, i)\nprint('last line', flush=True)"
    with started(tmp_path, HEAD + text, method, terminal=True) as script:
        script.wait_for("waiting for 10 unfinished tasks (hang)")
        begun = script.interrupt()
        assert script.end() == -signal.SIGINT
        assert time.monotonic() - begun < 3.0
        script.wait_until_alone(1.0)
        script.read_rest()
        assert "multitask: 10 unfinished tasks abandoned (Ctrl-C)" in script.out
        assert script.out.count("Traceback") == 1, script.out


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("method", METHODS)
def test_an_uncaught_exception_stops_the_work_and_says_how_much(tmp_path: Path, method: str, channel: str) -> None:
    text = "pool = Pool()\nfor i in range(10): pool.submit(hang, i)\nraise KeyError('the script')"
    script = ends(tmp_path, text, 1, method=method, channel=channel)
    assert script.err.endswith(
        "KeyError: 'the script'\nmultitask: 10 unfinished tasks abandoned (the script ended with an error)\n"
    )


def test_a_caught_exception_stops_nothing(tmp_path: Path) -> None:
    text = "pool = Pool()\ntry: pool.submit(fail, 1).result()\nexcept ValueError: pass\npool.submit(ran, 1)"
    script = ends(tmp_path, text)
    assert (script.out, script.err) == ("ran 1\n", "")


@pytest.mark.parametrize(("call", "code"), [("sys.exit(3)", 3), ("sys.exit('a word')", 1), ("sys.exit()", 0)])
def test_exit_codes_are_kept_and_the_work_is_finished(tmp_path: Path, call: str, code: int) -> None:
    script = ends(tmp_path, f"pool = Pool()\nfor i in range(20): pool.submit(ran, i)\n{call}", code)
    assert script.out.count("ran") == 20


def test_os_exit_leaves_no_worker(tmp_path: Path) -> None:
    ends(tmp_path, "pool = Pool()\nfor i in range(4): pool.submit(hang, i)\nos._exit(5)", 5)


def test_a_sigterm_leaves_no_worker(tmp_path: Path) -> None:
    with started(tmp_path, HEAD + "pool = Pool()\npool.map(hang, range(4))", "forkserver") as script:
        script.wait_for("hangs", 2)
        script.process.terminate()
        assert script.end() == -signal.SIGTERM
        script.wait_until_alone(2.0)


DROPPED = """
def work():
    pool = Pool()
    for i in range(40): pool.submit(ran, i)
    return pool.submit(ran, 40)
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_dropped_pool_finishes_its_work(tmp_path: Path, method: str) -> None:
    script = ends(
        tmp_path, DROPPED + "task = work()\nprint('dropped', flush=True)\nassert task.result() == 40", method=method
    )
    assert script.out.count("ran") == 41
    assert script.err == ""


def test_a_dropped_pool_ends_its_workers_while_the_program_goes_on(tmp_path: Path) -> None:
    text = DROPPED + "work()\nprint('dropped', flush=True)\ntime.sleep(1000)"
    with started(tmp_path, HEAD + text, "spawn") as script:
        script.wait_for("ran", 41)
        script.wait_until_alone(HANG_SECONDS)


UNREAD = {
    "never closed": "pool = Pool()\npool.submit(fail, 7)",
    "closed and ended": "pool = Pool()\npool.submit(fail, 7)\npool.close()\npool._engine.join()",
    "closed, ended and dropped": "pool = Pool()\npool.submit(fail, 7)\npool.close()\npool._engine.join()\ndel pool",
    "dropped": "Pool().submit(fail, 7)",
    "joined": "pool = Pool()\npool.submit(fail, 7)\npool.close()\npool.join()",
    "left by with": "with Pool() as pool: pool.submit(fail, 7)",
    "terminated after it": "pool = Pool()\ntask = pool.submit(fail, 7)\ntask.wait()\npool.terminate()",
    "an executor": "pool = multitask.Executor(2, start_method=METHOD)\npool.submit(fail, 7)",
    "an executor not waited for": "pool = multitask.Executor(2)\npool.submit(fail, 7)\npool.shutdown(wait=False)",
    "a map": "pool = Pool()\npool.map_async(fail, [7], callback=ran)",
    "a stream": "pool = Pool()\nresults = pool.imap(fail, [7])",
    "threads": "pool = Pool(kind='thread')\npool.submit(fail, 7)",
}


@pytest.mark.parametrize("how", UNREAD)
def test_a_failure_that_nobody_read_is_shown_once_with_its_submitting_line(tmp_path: Path, how: str) -> None:
    text = UNREAD[how].replace("Pool(kind", "multitask.Pool(kind")
    script = ends(tmp_path, text)
    line = 1 + (HEAD + text)[: (HEAD + text).index("fail, ", len(HEAD))].count("\n")
    assert script.err.count("ValueError: number 7") in (1, 2), script.err  # itself, and as the cause
    assert script.err.count("nobody asked for its result") == 1, script.err
    assert f"script.py:{line}\n" in script.err, script.err


def test_unread_failures_are_shown_after_an_uncaught_exception_too(tmp_path: Path) -> None:
    text = "pool = Pool()\ntask = pool.submit(fail, 7)\ntask.wait()\nraise KeyError('the script')"
    script = ends(tmp_path, text, 1)
    assert "KeyError: 'the script'" in script.err
    assert script.err.count("nobody asked for its result") == 1


@pytest.mark.parametrize("closed", ["", "pool.close(); pool._engine.join()"])
def test_callbacks_run_to_their_end_before_the_program_ends(tmp_path: Path, closed: str) -> None:
    text = f"""
def slowly(x):
    time.sleep(0.3)
    print("called", x, flush=True)
pool = Pool()
for i in range(3): pool.apply_async(abs, (i,), callback=slowly)
{closed}
"""
    assert ends(tmp_path, text).out.count("called") == 3


def test_a_callback_that_never_returns_is_said_and_ended_by_ctrl_c(tmp_path: Path) -> None:
    text = "pool = Pool()\npool.apply_async(abs, (1,), callback=hang)"
    with started(tmp_path, HEAD + text, "forkserver", terminal=True) as script:
        script.wait_for("multitask: waiting for callbacks; Ctrl-C stops")
        begun = script.interrupt()
        assert script.end() == -signal.SIGINT
        assert time.monotonic() - begun < 3.0
        script.wait_until_alone(1.0)


@pytest.mark.parametrize("read", [0, 3])
def test_a_stream_over_a_list_is_worked_through_however_little_was_read(tmp_path: Path, read: int) -> None:
    text = f"pool = Pool()\nresults = pool.imap(ran, list(range(1000)))\nfor _ in range({read}): next(results)"
    assert ends(tmp_path, text).out.count("ran") == 1000


@pytest.mark.parametrize("method", METHODS)
def test_an_endless_stream_half_read_does_not_keep_the_program(tmp_path: Path, method: str) -> None:
    text = "pool = Pool()\nresults = pool.imap(abs, itertools.count())\nfor _ in range(5): next(results)"
    assert ends(tmp_path, text, method=method).err == ""


def test_a_stream_whose_iterator_blocks_does_not_keep_the_program(tmp_path: Path) -> None:
    text = """
def blocks():
    yield 1
    threading.Event().wait()
pool = Pool()
results = pool.imap(abs, blocks())
next(results)
"""
    assert ends(tmp_path, text).err == ""


def test_a_pool_outlives_the_function_that_made_it_through_its_tasks(tmp_path: Path) -> None:
    text = """
def make():
    pool = Pool()
    return [pool.submit(abs, -i) for i in range(3)], pool.imap(abs, range(400))
tasks, results = make()
assert [task.result() for task in tasks] == [0, 1, 2]
assert list(results) == list(range(400))
"""
    assert ends(tmp_path, text).err == ""


@pytest.mark.parametrize("method", METHODS)
def test_a_script_may_fork_while_a_pool_lives(tmp_path: Path, method: str) -> None:
    text = """
pool = Pool()
waiting = pool.submit(fail, 1)
waiting.wait()
assert pool.map(abs, [-1]) == [1]
child = os.fork()
if child == 0:
    with Pool() as own:
        assert own.map(abs, [-2]) == [2]
    del pool
    sys.exit(4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
assert pool.map(abs, [-3]) == [3]
assert isinstance(waiting.exception(), ValueError)
"""
    script = ends(tmp_path, text, method=method)
    assert script.err == "", "the child must not tell of the parent's tasks"


def test_a_result_whose_del_raises_harms_nobody(tmp_path: Path) -> None:
    text = """
class Bad:
    def __del__(self): raise ValueError("in del")
with Pool() as pool:
    for _ in range(20): pool.submit(Bad).result()
    pool.submit(Bad)
    print(pool.map(abs, [-1]))
"""
    script = ends(tmp_path, text)
    assert script.out == "[1]\n"
    assert "multitask:" not in script.err


def test_work_handed_in_by_an_exit_handler_is_done(tmp_path: Path) -> None:
    text = """
import atexit
pool = Pool()
atexit.register(lambda: print(pool.map(abs, [-1]), flush=True))
pool.submit(ran, 1)
"""
    script = ends(tmp_path, text)
    assert sorted(script.out.splitlines()) == ["[1]", "ran 1"]


def test_errors_seen_at_a_prompt_do_not_count_as_the_end(tmp_path: Path) -> None:
    text = "import multitask\npool = multitask.Pool(1)\n1/0\n_ = pool.submit(print, 'finished')\n"
    script = run(tmp_path, text, how="stdin", flags=("-i", "-q"))
    assert "finished" in script.out
    assert "abandoned" not in script.err


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channel", CHANNELS)
def test_development_mode_has_nothing_to_say(tmp_path: Path, method: str, channel: str) -> None:
    text = """
with Pool() as pool:
    pool.map(ran, range(10))
    list(pool.imap(abs, itertools.count(), buffer=3).next() for _ in range(3))
    pool.apply_async(abs, (1,), callback=ran)
pool = Pool()
pool.submit(ran, 1)
pool.terminate()
pool.join()
other = Pool()
other.submit(ran, 2)
"""
    assert ends(tmp_path, text, method=method, channel=channel, flags=("-X", "dev", "-W", "error")).err == ""


def test_progress_on_a_terminal_is_a_bar_and_elsewhere_plain_lines(tmp_path: Path) -> None:
    text = """
with Pool() as pool:
    pool.map(abs, range(500), progress='counting')
    list(pool.imap(abs, range(50), progress=True))
"""
    plain = ends(tmp_path, text).err
    assert "counting: 500 of 500 (100%)" in plain
    assert "abs: 50 of 50 (100%)" in plain
    assert "\x1b" not in plain
    bar = ends(tmp_path, text, terminal=True).out
    assert "500/500" in bar
    assert "50/50" in bar
