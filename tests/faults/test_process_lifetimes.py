"""Who outlives whom: a process of each lifetime, and each way in which its parent can end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multitask._engine.workers.process import start_methods

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfds")]

SCRIPT = """
import os, signal, sys, threading
from multitask import Process

method, lifetime, ending, path = sys.argv[1:]

def work():
    with open(path, "w") as out, open(path + "-gate") as gate:
        print(os.getpid(), file=out, flush=True)
        gate.readline()  # until the test lets it go on
        print("finished", file=out, flush=True)

process = Process(target=work, start_method=method, lifetime=lifetime, name="work")
if ending == "thread":
    starter = threading.Thread(target=process.start)
    starter.start()
    starter.join()
else:
    process.start()
print("started", flush=True)
sys.stdin.readline()
if ending == "exception":
    raise ValueError("of the script")
if ending == "_exit":
    os._exit(0)
if ending in ("SIGTERM", "SIGKILL", "SIGINT"):
    os.kill(os.getpid(), getattr(signal, ending))
    signal.pause()
"""

SAYS = "multitask: 1 unfinished task abandoned"


def run(tmp_path: Path, method: str, lifetime: str, ending: str) -> tuple[Any, int, Any, Any]:
    """The script, the pid of its process, what that writes and what lets it go on."""
    script, fifo = tmp_path / "script.py", tmp_path / "fifo"
    script.write_text(SCRIPT)
    os.mkfifo(fifo)
    os.mkfifo(f"{fifo}-gate")
    # Into files: a process that goes on keeps a pipe open.
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        program = subprocess.Popen(
            [sys.executable, str(script), method, lifetime, ending, str(fifo)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            text=True,
        )
    pipe = open(fifo)  # noqa: SIM115
    gate = open(f"{fifo}-gate", "w")  # noqa: SIM115
    return program, int(pipe.readline()), pipe, gate


def gone(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


@pytest.mark.parametrize("method", start_methods())
@pytest.mark.parametrize("lifetime", ["joined", "bound"])
@pytest.mark.parametrize("ending", ["return", "thread", "exception", "_exit", "SIGTERM", "SIGKILL", "SIGINT"])
def test_the_end_of_the_parent(tmp_path: Path, method: str, lifetime: str, ending: str) -> None:
    program, pid, pipe, gate = run(tmp_path, method, lifetime, ending)
    pidfd = os.pidfd_open(pid)
    try:
        program.stdin.write("\n")
        program.stdin.close()
        orderly = ending in ("return", "thread")
        if not (orderly and lifetime == "joined"):  # that one waits for its process
            program.wait(30)
        if lifetime == "joined" and ending not in ("exception", "SIGINT"):
            print(file=gate, flush=True)
            assert pipe.read() == "finished\n"
        else:
            assert gone(pidfd, 2.0)
            assert pipe.read() == ""
        program.wait(30)
        out, err = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
        assert out == "started\n"
        assert err.count("Traceback") == (ending in ("exception", "SIGINT"))
        assert (SAYS in err) == (ending in ("exception", "SIGINT"))
        if orderly or ending == "_exit":
            assert (program.returncode, err) == (0, "")
    finally:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(pidfd)
        pipe.close()
        with contextlib.suppress(BrokenPipeError):
            gate.close()


def test_a_thousand_ended_processes_leave_nothing() -> None:
    program = """
import os, sys
from multitask import Process

def left():
    here = os.listdir("/proc/self/fd")
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    return len(here), len(children)

def once():
    process = Process(target=int, start_method="fork")
    process.start()
    process.join()

once()
first = left()
for _ in range(1000):
    once()
assert left() == first, (left(), first)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=55)
    assert (done.returncode, done.stderr) == (0, "")
