"""Progress: a bar on a terminal, lines elsewhere; and reading lines."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from cli import shell
from multitask._engine import clock
from multitask.cli import output
from multitask.cli.lines import Lines
from multitask.cli.output import Bar, Output


class Clock:
    """A clock that moves when told."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    hands = Clock()
    monkeypatch.setattr(clock, "monotonic", hands.monotonic)
    return hands


def test_without_a_terminal_a_line_is_written_now_and_then(time: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(Output(), "copy") as bar:
        for second in range(12):
            time.now = 100.0 + second
            bar.update(second / 12, f"after {second}", {})
    assert capsys.readouterr().err == "after 5\nafter 10\n"


def test_with_json_progress_is_events_on_stdout(time: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.json = True
    with Bar(out, "copy") as bar:
        for tenth in range(25):
            time.now = 100.0 + tenth / 10
            bar.update(None, "text", {"files": tenth})
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ('{"type": "progress", "files": 10}\n{"type": "progress", "files": 20}\n', "")


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="finds workers through /proc")
@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}])
def test_on_a_terminal_there_is_a_bar_and_then_the_summary(tmp_path: Path, env: dict[str, str]) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.mkdir()
    for name in ("one", "two", "three"):
        (src / name).write_bytes(os.urandom(1 << 20) * 32)

    def hold_until_the_bar_is_there(process: subprocess.Popen[bytes], terminal: int) -> bytes:
        worker = shell.freeze_a_writer(process, dst)
        read = b""
        while b"B/s" not in read:
            read += os.read(terminal, 1000)
        os.kill(worker, signal.SIGCONT)
        return read

    code, shown = shell.on_a_terminal("copy", src, dst, env=env, meanwhile=hold_until_the_bar_is_there)
    assert code == 0
    assert " of 3 files, " in shown and " of 101 MB, " in shown
    assert shown.rstrip().splitlines()[-1] == f"next: diff -r {src} {dst}"
    coloured = re.search(r"\x1b\[[1-9][\d;]*m", shown)
    assert (coloured is None) == bool(env)


def test_a_dumb_terminal_is_not_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert not output.watched()


def test_lines_are_cut_at_newlines_only(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"a\x0bb\x0cc\xe2\x80\xa8d\n\n" + b"long" * 50_000 + b"\nrest")
    lines = Lines(str(tmp_path / "lines"))
    assert list(lines) == ["a\x0bb\x0cc\u2028d", "", "long" * 50_000, "rest"]
    lines.close()


def test_waiting_for_a_line_can_be_stopped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    lines = Lines(str(tmp_path / "pipe"))
    found: list[str] = []
    first = threading.Event()

    def read() -> None:
        for line in lines:
            found.append(line)
            first.set()

    reader = threading.Thread(target=read)
    reader.start()
    os.write(writer, b"one\nhalf")
    assert first.wait(shell.HANG_SECONDS)
    lines.stop()
    reader.join(shell.HANG_SECONDS)
    assert not reader.is_alive()
    lines.close()
    os.close(writer)
    assert found[0] == "one"
