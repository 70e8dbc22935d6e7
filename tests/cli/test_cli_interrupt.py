"""Signals while a copy runs: Ctrl-C, a killed worker, a killed copy. Workers are frozen to make the moment certain."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from copying import trees

from cli import shell

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="finds workers through /proc")


HIDE_CURSOR = b"\x1b[?25l"


@pytest.fixture
def src(tmp_path: Path) -> Iterator[Path]:
    """Small files, and large ones that take a while."""
    root = trees.make(tmp_path / "src")
    for number in range(3):
        with open(root / f"large{number}", "wb") as file:
            block = os.urandom(1 << 20)
            for _ in range(48):
                file.write(block)
    yield root
    trees.remove(tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_removes_temporary_files_and_says_how_to_go_on(
    src: Path, tmp_path: Path, number: int, code: int
) -> None:
    dst = tmp_path / "dst"
    process = shell.start("copy", src, dst)
    shell.freeze_a_writer(process, dst)
    began = time.monotonic()
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    done = shell.finish(process)
    assert time.monotonic() - began < 3.0
    assert done.code == code
    assert "Traceback" not in done.err
    assert trees.temporary(dst) == []
    lines = done.err.splitlines()
    assert lines[0].startswith("interrupted: ")
    assert lines[-1] == f"next: multitask copy --merge {src} {dst}"
    assert_nothing_half_written(src, dst)
    assert shell.run("copy", "--merge", src, dst).code == 0
    assert trees.look(dst) == trees.look(src)


def test_threads_are_interrupted_too(src: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    process = shell.start("copy", src, dst, "--kind", "thread")
    shell.wait_for(lambda: trees.temporary(dst) if dst.exists() else None, process)
    os.killpg(process.pid, signal.SIGINT)
    done = shell.finish(process)
    assert done.code in (130, 0), "0: it was done before the signal came"
    assert trees.temporary(dst) == []
    assert_nothing_half_written(src, dst)


def test_a_killed_worker_costs_nothing(src: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    process = shell.start("copy", src, dst)
    os.kill(shell.freeze_a_writer(process, dst), signal.SIGKILL)
    done = shell.finish(process)
    assert done.code == 0, done.err
    assert done.err.splitlines()[0].startswith("copied: "), "nothing else is said"
    assert trees.look(dst) == trees.look(src)


def test_a_copy_killed_at_any_moment_is_completed_by_the_same_command(src: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    moments = random.Random(12)
    killed = 0
    for _ in range(12):
        process = shell.start("copy", "--merge", src, dst)
        try:
            process.wait(moments.uniform(0.05, 0.6))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        shell.finish(process)
        if dst.exists():
            assert_nothing_half_written(src, dst)
    assert killed
    assert shell.run("copy", "--merge", src, dst).code == 0
    original, copied = trees.look(src), trees.look(dst)
    left = {path for path in copied if os.path.basename(path).startswith(".multitask-")}
    assert {path: facts for path, facts in copied.items() if path not in left} == original


def assert_nothing_half_written(src: Path, dst: Path) -> None:
    """What stands under a final name is complete."""
    original = trees.look(src)
    for path, facts in trees.look(dst).items():
        if facts[3] is not None and not os.path.basename(path).startswith(".multitask-"):
            assert facts == original[path], f"{path} is half-written"


def test_ctrl_c_on_a_terminal_leaves_it_usable(src: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"

    def press(process: subprocess.Popen[bytes], terminal: int) -> bytes:
        shell.freeze_a_writer(process, dst)
        read = b""
        while HIDE_CURSOR not in read:
            read += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        return read

    code, shown = shell.on_a_terminal("copy", src, dst, meanwhile=press)
    assert code == 130
    assert shown.count(HIDE_CURSOR.decode()) == shown.count("\x1b[?25h") == 1, "the cursor is back"
    assert "Traceback" not in shown
    assert shown.rstrip().splitlines()[-1] == f"next: multitask copy --merge {src} {dst}"
    assert trees.temporary(dst) == []
