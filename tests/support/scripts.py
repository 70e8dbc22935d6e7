"""Runs a program as a user does: a process of its own session, on pipes or on a terminal, and what it leaves."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

HANG_SECONDS = 50.0  # only detects a hang
# Python 3.12 and later say of every fork beside a thread that it may go wrong; our own thread is one.
FORKS_SAID = ("-W", "ignore:This process:DeprecationWarning")
TOKEN = "MULTITASK_TEST_TOKEN"
METHODS = ("fork", "forkserver", "spawn")
CHANNELS = ("native", "pipe")


def environment(channel: str = "native", **more: str) -> dict[str, str]:
    """For a program whose pools use *channel*; the test is skipped where there is no such."""
    from multitask import _native

    if channel == "native" and not _native.available:
        pytest.skip(_native.why_not)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MULTITASK_", "PYTHON", "PYTEST"))}
    env |= {"MULTITASK_NATIVE": "1" if channel == "native" else "0", **more}
    return env


class Script:
    """One running program. ``out`` and ``err`` grow as they are read; on a terminal both are in ``out``."""

    def __init__(self, command: list[str], env: dict[str, str], *, terminal: bool, stdin: str | None = None) -> None:
        self.token = uuid.uuid4().hex
        self.texts = {"out": b"", "err": b""}
        self._open: dict[int, str] = {}
        env = env | {TOKEN: self.token}
        if terminal:
            ours, theirs = pty.openpty()
            streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
            self._open = {ours: "out"}
            self.terminal = ours
            given = [theirs]
        else:
            out, out_end = os.pipe()
            err, err_end = os.pipe()
            streams = {"stdin": subprocess.DEVNULL, "stdout": out_end, "stderr": err_end}
            self._open = {out: "out", err: "err"}
            given = [out_end, err_end]
        if stdin is not None:
            streams["stdin"] = subprocess.PIPE
        try:
            self.process = subprocess.Popen(command, env=env, start_new_session=True, **streams)  # type: ignore[call-overload]
        finally:
            for fd in given:
                os.close(fd)
        if stdin is not None:
            self.process.stdin.write(stdin.encode())
            self.process.stdin.close()

    @property
    def out(self) -> str:
        return self.texts["out"].decode(errors="replace").replace("\r\n", "\n")

    @property
    def err(self) -> str:
        return self.texts["err"].decode(errors="replace").replace("\r\n", "\n")

    def _read(self, seconds: float) -> None:
        ready, _, _ = select.select(list(self._open), [], [], seconds)
        for fd in ready:
            try:
                data = os.read(fd, 65536)
            except OSError:  # a terminal whose other side is closed
                data = b""
            if data:
                self.texts[self._open[fd]] += data
            else:
                del self._open[fd]
                os.close(fd)

    def wait_for(self, text: str, count: int = 1, where: str = "out") -> float:
        """Read until *text* has come *count* times; the moment it was seen."""
        end = time.monotonic() + HANG_SECONDS
        while self.texts[where].count(text.encode()) < count:
            if not self._open or time.monotonic() > end:
                pytest.fail(f"{text!r} did not come {count} times:\n{self.out}\n{self.err}")
            self._read(1.0)
        return time.monotonic()

    def wait_until_asleep(self) -> None:
        """Until its main thread waits for something that has not come."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/stat")
        end = time.monotonic() + HANG_SECONDS
        in_a_row = 0
        while in_a_row < 3:
            state = path.read_bytes().rpartition(b")")[2].split()[0]
            in_a_row = in_a_row + 1 if state == b"S" else 0
            if time.monotonic() > end:
                pytest.fail(f"it never slept:\n{self.out}\n{self.err}")
            self._read(0.02)

    def interrupt(self) -> float:
        """Ctrl-C: SIGINT to the whole group in the foreground; when that was."""
        os.killpg(self.process.pid, signal.SIGINT)
        return time.monotonic()

    def end(self) -> int:
        """Wait for the program's own end; its exit status. Its pipes may be held by others: see ``read_rest``."""
        end = time.monotonic() + HANG_SECONDS
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while not select.select([pidfd], [], [], 0)[0]:
                if time.monotonic() > end:
                    pytest.fail(f"it did not end:\n{self.out}\n{self.err}")
                select.select([pidfd, *self._open], [], [], 1.0)
                self._read(0)
        finally:
            os.close(pidfd)
        return self.process.wait()

    def read_rest(self) -> None:
        """All output to the last writer's end: no worker may keep the pipes open."""
        end = time.monotonic() + HANG_SECONDS
        while self._open:
            if time.monotonic() > end:
                pytest.fail(f"somebody keeps the output open: {self.left()}")
            self._read(1.0)

    def left(self) -> list[int]:
        """The processes, itself apart, that carry its token in their environment and live."""
        found = []
        needle = f"{TOKEN}={self.token}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            pid = int(path.parent.name)
            with contextlib.suppress(OSError):
                if pid != self.process.pid and needle in path.read_bytes() and _lives(pid):
                    found.append(pid)
        return found

    def wait_until_alone(self, seconds: float) -> float:
        """Until no process is left of it; how long that took."""
        begun = time.monotonic()
        while left := self.left():
            if time.monotonic() - begun > seconds:
                pytest.fail(f"left after {seconds} s: {left}\n{self.out}\n{self.err}")
            time.sleep(0.01)
        return time.monotonic() - begun

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.left():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for fd in self._open:
            os.close(fd)
        self._open.clear()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


@contextlib.contextmanager
def started(
    folder: Path,
    text: str,
    *arguments: str,
    how: str = "file",
    terminal: bool = False,
    channel: str = "native",
    flags: tuple[str, ...] = ("-W", "error"),
    **env: str,
) -> Iterator[Script]:
    """The program *text* run as a file, with ``-c`` or from standard input; whatever is left is killed after."""
    command = [sys.executable, *flags]
    if how == "file":
        path = folder / "script.py"
        path.write_text(text)
        command.append(str(path))
    elif how == "-c":
        command += ["-c", text]
    else:
        command.append("-")
    given = text if how == "stdin" else None
    script = Script([*command, *arguments], environment(channel, **env), terminal=terminal, stdin=given)
    try:
        yield script
    finally:
        script.close()


def run(folder: Path, text: str, *arguments: str, **options: object) -> Script:
    """The program, run to its end, with nothing left of it."""
    with started(folder, text, *arguments, **options) as script:  # type: ignore[arg-type]
        script.end()
        script.read_rest()
        script.wait_until_alone(2.0)
    return script
