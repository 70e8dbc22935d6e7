"""Help, wrong usage, doctor, and how quickly it starts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli import shell
from multitask import __version__
from multitask.cli.args import COMMANDS


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_h_is_one_screen(words: list[str]) -> None:
    done = shell.run(*words, "-h")
    lines = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    assert lines[2].startswith("  example: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_everything(name: str) -> None:
    short, long = shell.run(name, "-h").out, shell.run(name, "--help").out
    assert "exit codes:" in long
    for option in re.findall(r"--\w+", short):
        assert option in long


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_the_first_example_works(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    line = shell.run(*words, "-h").out.splitlines()[2].removeprefix("  example: ")
    script = re.sub(r"\bmultitask\b", f"{sys.executable} -m multitask", line)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    if "copy" in line:
        assert (tmp_path / "backup" / "cat.jpg").read_text() == "meow"


def test_version() -> None:
    assert shell.run("--version").out == f"multitask {__version__}\n"


def test_no_command_shows_the_screen_and_is_wrong_usage() -> None:
    done = shell.run()
    assert done.code == 2
    assert all(f"multitask {name} " in done.out for name in COMMANDS)


def test_an_unknown_command_suggests_the_near_one() -> None:
    done = shell.run("cpoy")
    assert (done.code, done.out) == (2, "")
    assert "did you mean `multitask copy`?" in done.err


def test_doctor_tells_what_works() -> None:
    done = shell.run("doctor")
    assert (done.code, done.err) == (0, "")
    for name in (
        "multitask",
        "python",
        "native core",
        "futex",
        "memfd",
        "pidfd",
        "cpus",
        "start methods",
        "open files",
    ):
        assert re.search(rf"^(ok|--)  {name} ", done.out, re.MULTILINE), name
    assert re.search(r"^ok  process pool ", done.out, re.MULTILINE)


def test_doctor_says_why_the_native_core_is_missing() -> None:
    done = shell.run("doctor", "--json", env={**os.environ, "MULTITASK_NATIVE": "0"})
    checks = {event["name"]: event for event in done.events}
    assert done.code == 0, "pools work without it"
    assert checks["native core"]["ok"] is None
    assert "MULTITASK_NATIVE=0 is set" in checks["native core"]["value"]
    assert checks["native core"]["fix"] == "unset MULTITASK_NATIVE"


def test_a_closed_stdout_is_no_traceback() -> None:
    command = " ".join([*shell.COMMAND, "doctor"])
    done = subprocess.run(["bash", "-c", f"{command} | true"], stderr=subprocess.PIPE)
    assert done.stderr == b""


def test_no_command_loads_what_it_does_not_need() -> None:
    """Start-up is what most short commands consist of."""
    script = (
        "import sys; from multitask.cli import main; code = main(['copy', '-h']);"
        "import json; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = set(json.loads(done.stderr))
    assert not loaded & {"rich", "cloudpickle", "asyncio", "multitask.pool", "multitask.task"}
