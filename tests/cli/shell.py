"""Runs the command as a user does: another process, its streams, its exit code, its signals."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

COMMAND = [sys.executable, "-m", "multitask"]
HANG_SECONDS = 60.0

T = TypeVar("T")

# The terminal on stdin becomes the one whose Ctrl-C this process gets, as after a login.
TAKE_TERMINAL = """
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.argv[0] = "multitask"
runpy.run_module("multitask", run_name="__main__", alter_sys=True)
"""

# As users have it: output to a pipe is buffered unless the command flushes it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """What --json printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    def event(self, kind: str) -> dict[str, Any]:
        """The only event of its type."""
        (found,) = (event for event in self.events if event["type"] == kind)
        return found


def run(
    *words: str | Path,
    input: bytes | str = b"",
    cwd: Path | None = None,
    python: str = sys.executable,
    **options: Any,
) -> Result:
    """Run ``multitask WORDS…`` to its end."""
    data = input.encode() if isinstance(input, str) else input
    done = subprocess.run(
        [python, *COMMAND[1:], *map(os.fspath, words)],
        input=data,
        capture_output=True,
        cwd=cwd,
        timeout=HANG_SECONDS,
        **{"env": ENVIRONMENT, **options},
    )
    out, err = (stream.decode("utf-8", "surrogateescape") for stream in (done.stdout, done.stderr))
    return Result(done.returncode, out, err)


def start(*words: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    """Begin ``multitask WORDS…`` in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        [*COMMAND, *map(os.fspath, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **{"env": ENVIRONMENT, **options},
    )


def finish(process: subprocess.Popen[bytes], seconds: float = HANG_SECONDS) -> Result:
    """Its result; the test fails when it does not end in time."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Result(process.returncode, out.decode(), err.decode())


def on_a_terminal(
    *words: str | Path,
    env: dict[str, str] | None = None,
    meanwhile: Callable[[subprocess.Popen[bytes], int], bytes] = lambda process, terminal: b"",
) -> tuple[int, str]:
    """Run it on a pseudo terminal; returns exit code and what was shown. *meanwhile* may type, and returns
    what it has read."""
    ours, theirs = pty.openpty()
    terminal = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **(env or {})}
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, *map(os.fspath, words)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=terminal,
        start_new_session=True,
    )
    os.close(theirs)
    shown = meanwhile(process, ours)
    try:
        while True:
            ready, _, _ = select.select([ours], [], [], HANG_SECONDS)
            assert ready, "no output and no end"
            data = os.read(ours, 4096)
            if not data:
                break
            shown += data
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(ours)
    return process.wait(HANG_SECONDS), shown.decode()


def wait_for(look: Callable[[], T | None], process: subprocess.Popen[bytes]) -> T:
    """Look until there is something to see; a process that has ended will show nothing more."""
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        if process.poll() is not None:
            raise AssertionError(f"ended too soon: {finish(process)}")
        time.sleep(0.001)
    raise AssertionError("nothing to see")


def descendants(pid: int) -> Iterator[int]:
    """Every process below *pid*."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        try:
            children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield int(child)
            yield from descendants(int(child))


def writers(pid: int, folder: Path) -> list[int]:
    """Processes below *pid* (or itself) that have a temporary file in *folder* open."""
    found = []
    for each in (pid, *descendants(pid)):
        try:
            fds = os.listdir(f"/proc/{each}/fd")
        except OSError:
            continue
        for fd in fds:
            try:
                path = os.readlink(f"/proc/{each}/fd/{fd}")
            except OSError:
                continue
            if path.startswith(str(folder)) and ".multitask-" in path:
                found.append(each)
    return found


def freeze_a_writer(process: subprocess.Popen[bytes], dst: Path) -> int:
    """Stop a worker that has a temporary file open, and return it."""

    def stopped() -> int | None:
        for pid in writers(process.pid, dst):
            os.kill(pid, signal.SIGSTOP)
            if pid in writers(process.pid, dst):
                return pid
            os.kill(pid, signal.SIGCONT)
        return None

    return wait_for(stopped, process)
