"""``multitask map``: a function over lines, in order, however the lines come."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from cli import shell

KINDS = ["process", "thread", "inline"]

MODULE = """\
import os, threading, time

def shout(text):
    return text.upper()

def half(number):
    return number / 2

def picky(text):
    if text == "bad":
        raise ValueError("this one\\nand more")
    return len(text)

def keys(value):
    return sorted(value)

def thing(text):
    return object

def leave(text):
    raise SystemExit(3)

def interrupt(text):
    raise KeyboardInterrupt

def die(text):
    if text == "die":
        os.kill(os.getpid(), 9)
    return text

def hang(text):
    if text == "hang":
        threading.Event().wait()
    return text

def flaky(path):
    if os.path.exists(path):
        return "second try"
    open(path, "x").close()
    raise OSError("first try")

class Box:
    @staticmethod
    def open(text):
        return f"<{text}>"

not_a_function = 3
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a module of the user's in it."""
    (tmp_path / "mine.py").write_text(MODULE)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_results_come_in_order_from_a_module_in_the_current_folder(here: Path, kind: str) -> None:
    lines = "".join(f"line {number}\n" for number in range(3000))
    done = shell.run("map", "mine:shout", "--kind", kind, "--jobs", "3", input=lines, cwd=here)
    assert (done.code, done.err) == (0, "")
    assert done.out == lines.upper()


@pytest.mark.parametrize("kind", KINDS)
def test_the_current_folder_is_found_though_python_does_not_look_there(here: Path, kind: str) -> None:
    env = {**shell.ENVIRONMENT, "PYTHONSAFEPATH": "1"}  # as for the installed script, whose folder is another
    assert shell.run("map", "mine:shout", "--kind", kind, input="a\n", cwd=here, env=env).out == "A\n"


def test_lines_come_from_a_file_too(here: Path) -> None:
    (here / "lines").write_bytes(b"one\r\n\ntwo words\nno end")
    done = shell.run("map", "mine:shout", "lines", cwd=here)
    assert done.out == "ONE\n\nTWO WORDS\nNO END\n"


def test_bytes_that_are_no_text_go_through_unchanged(here: Path) -> None:
    done = shell.run("map", "mine:shout", input=b"caf\xe9 \xff\n\xc3\xa9\n", cwd=here)
    assert done.out.encode("utf-8", "surrogateescape") == b"CAF\xe9 \xff\n\xc3\x89\n"


@pytest.mark.parametrize(
    ("kind", "function", "line", "result"),
    [
        ("int", "mine:half", "4", "2.0"),
        ("float", "math:sqrt", "2.25", "1.5"),
        ("json", "mine:keys", '{"b": 1, "a": [2]}', "['a', 'b']"),
        ("str", "mine:Box.open", "4", "<4>"),
    ],
)
def test_a_line_is_taken_as_what_was_asked_for(here: Path, kind: str, function: str, line: str, result: str) -> None:
    assert shell.run("map", function, "--as", kind, input=line, cwd=here).out == result + "\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_line_is_named_and_the_rest_done(here: Path, kind: str) -> None:
    done = shell.run("map", "mine:picky", "--kind", kind, input="a\nbad\nccc\n", cwd=here)
    assert (done.code, done.out) == (1, "1\n3\n")
    assert done.err.splitlines() == [
        "multitask map: line 2: ValueError: this one",
        "multitask map: 2 lines done, 1 failed",
        "next: multitask map mine:picky --kind inline   (with line 2 as input: breakpoints work there)",
    ]


def test_the_next_command_repeats_the_failed_line(here: Path) -> None:
    (here / "the lines").write_text("a\nbad\n")
    done = shell.run("map", "mine:picky", "the lines", cwd=here)
    assert done.err.splitlines()[-1] == "next: sed -n 2p 'the lines' | multitask map mine:picky --kind inline"


@pytest.mark.parametrize(("function", "error"), [("leave", "SystemExit: 3"), ("interrupt", "KeyboardInterrupt")])
def test_a_function_that_wants_to_leave_only_fails_its_line(here: Path, function: str, error: str) -> None:
    done = shell.run("map", f"mine:{function}", input="a\n", cwd=here)
    assert done.code == 1
    assert done.err.splitlines()[0] == f"multitask map: line 1: {error}"


def test_text_that_reads_as_a_number_suggests_as(here: Path) -> None:
    done = shell.run("map", "math:sqrt", input="2.5\nx\n", cwd=here)
    assert done.code == 1
    assert "  fix: a line is text; --as float makes it a number before the call" in done.err.splitlines()
    assert done.err.splitlines()[-1] == "next: multitask map math:sqrt --as float"
    assert "--as" not in shell.run("map", "math:sqrt", input="x\n", cwd=here).err


def test_a_line_that_is_not_what_was_asked_for_fails_alone(here: Path) -> None:
    done = shell.run("map", "mine:half", "--as", "int", input="2\ntwo\n4\n", cwd=here)
    assert (done.code, done.out) == (1, "1.0\n2.0\n")
    assert "multitask map: line 2: ValueError: not int: 'two'" in done.err


def test_json_lines_have_types(here: Path) -> None:
    done = shell.run("map", "mine:picky", "--json", input="a\nbad\n", cwd=here)
    assert done.events[:2] == [
        {"type": "result", "line": 1, "value": 1},
        {"type": "failed", "line": 2, "error": "ValueError", "message": "this one\nand more"},
    ]
    summary = done.event("summary")
    assert (summary["done"], summary["failed"]) == (1, 1)
    odd = shell.run("map", "mine:thing", "--json", input="a\n", cwd=here)
    assert odd.events[0] == {"type": "result", "line": 1, "value": "<class 'object'>"}


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        (["math.sqrt"], "names no function", "math:sqrt"),
        (["math:sqr"], "math has no 'sqr'", "did you mean sqrt"),
        (["missing_module:f"], "there is no module", "current folder"),
        (["mine:not_a_function"], "is a int, not a function", "call"),
        (["mine:shout", "missing"], "cannot read missing: No such file", "standard input"),
        (["mine:shout", "."], "Is a directory", "check"),
        (["broken:f"], "cannot import broken", "python -c"),
        (["mine:shout", "--as", "bytes"], "invalid choice", "-h"),
        (["mine:shout", "--timeout", "0"], "above 0", "-h"),
        (["mine:shout", "--retries", "-1"], "at least 0", "-h"),
    ],
)
def test_what_cannot_begin_is_refused(here: Path, words: list[str], what: str, fix: str) -> None:
    (here / "broken.py").write_text("1 / 0")
    done = shell.run("map", *words, input="a\n", cwd=here)
    assert (done.code, done.out) == (2, "")
    assert what in done.err.splitlines()[0]
    assert fix in done.err.splitlines()[-1]


def test_a_timeout_fails_the_line_that_hangs(here: Path) -> None:
    done = shell.run("map", "mine:hang", "--timeout", "0.5", input="a\nhang\nb\n", cwd=here)
    assert (done.code, done.out) == (1, "a\nb\n")
    assert "line 2: TaskTimeout" in done.err


def test_a_timeout_that_threads_cannot_keep_is_refused(here: Path) -> None:
    done = shell.run("map", "mine:shout", "--timeout", "1", "--kind", "thread", input="a\n", cwd=here)
    assert (done.code, done.out) == (2, "")
    assert "thread" in done.err


def test_a_line_that_kills_its_worker_fails_alone(here: Path) -> None:
    done = shell.run("map", "mine:die", input="a\ndie\nb\n", cwd=here)
    assert (done.code, done.out) == (1, "a\nb\n")
    assert "line 2: WorkerLost" in done.err


def test_retries_give_a_failed_line_more_tries(here: Path) -> None:
    (here / "lines").write_text(str(here / "mark"))
    done = shell.run("map", "mine:flaky", "lines", "--retries", "1", cwd=here)
    assert (done.code, done.out, done.err) == (0, "second try\n", "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_comes_before_the_next_line_is_there(here: Path, kind: str) -> None:
    process = shell.start("map", "mine:shout", "--kind", kind, stdin=subprocess.PIPE, cwd=here)
    assert process.stdin and process.stdout
    for word in (b"first", b"second"):
        process.stdin.write(word + b"\n")
        process.stdin.flush()
        assert read_line(process) == word.upper() + b"\n"
    process.stdin.close()
    process.stdin = None
    assert shell.finish(process).code == 0


def read_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], shell.HANG_SECONDS)
    assert ready, "no result though the line is there"
    return os.read(process.stdout.fileno(), 1000)


@pytest.mark.parametrize("kind", KINDS)
def test_an_endless_input_is_read_no_further_than_the_window(here: Path, kind: str) -> None:
    """The reader of the results stops reading, so the command must stop reading too: memory stays bounded."""
    fd_in, fd_out = os.pipe()
    process = shell.start("map", "mine:shout", "--kind", kind, stdin=fd_in, cwd=here)
    os.close(fd_in)
    os.set_blocking(fd_out, False)
    line = b"x" * 1023 + b"\n"
    fed, most = 0, 64 << 20
    while fed < most:
        _, ready, _ = select.select([], [fd_out], [], 1.5)
        if not ready:
            break
        fed += os.write(fd_out, line * 16)
    os.close(fd_out)
    process.kill()
    shell.finish(process)
    assert fed < most, "it went on reading though nobody took the results"


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_has_seen_enough_ends_it_quietly(here: Path, kind: str) -> None:
    command = " ".join(shell.COMMAND)
    script = f"set -o pipefail; yes | {command} map mine:shout --kind {kind} | head -2"
    done = subprocess.run(["bash", "-c", script], capture_output=True, cwd=here, timeout=shell.HANG_SECONDS)
    assert (done.stdout, done.stderr) == (b"Y\nY\n", b"")


@pytest.mark.parametrize("kind", KINDS)
def test_an_interruption_ends_it_with_130(here: Path, kind: str) -> None:
    (here / "endless").touch()
    fd_in, fd_out = os.pipe()
    process = shell.start("map", "mine:shout", "--kind", kind, stdin=fd_in, cwd=here)
    os.close(fd_in)
    os.write(fd_out, b"a\n")
    assert read_line(process) == b"A\n"
    os.killpg(process.pid, signal.SIGINT)
    done = shell.finish(process, 10)
    os.close(fd_out)
    assert done.code == 130
    assert done.err.splitlines() == ["multitask map: interrupted after 1 line, 0 failed"]


def test_an_interruption_of_a_call_ends_it_with_130_and_says_how_to_go_on(here: Path) -> None:
    (here / "lines").write_text("a\nb\nhang\nc\n")
    process = shell.start("map", "mine:hang", "lines", cwd=here)
    shown = b""
    while shown != b"a\nb\n":
        shown += read_line(process)
    os.killpg(process.pid, signal.SIGINT)
    done = shell.finish(process, 10)
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1] == "next: tail -n +3 lines | multitask map mine:hang"
