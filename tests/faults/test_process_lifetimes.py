"""Who outlives whom: a process of each lifetime, and each way in which its parent can end."""

from __future__ import annotations

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
import os, signal, sys, threading, time
from multitask import Process

method, lifetime, ending, path = sys.argv[1:]

def work():
    with open(path, "w") as pipe:  # a fifo: the test reads the pid, and lets go when it has looked
        pipe.write(f"{os.getpid()}\\n")
        pipe.flush()
        if ending in ("return", "thread"):
            time.sleep(0.3)
            pipe.write("finished\\n")
        else:
            time.sleep(60)

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
    time.sleep(60)
"""

SAYS = "multitask: 1 unfinished task abandoned"


def run(tmp_path: Path, method: str, lifetime: str, ending: str) -> tuple[Any, int, Any]:
    """The script, the pid of its process and what that writes."""
    script, fifo = tmp_path / "script.py", tmp_path / "fifo"
    script.write_text(SCRIPT)
    os.mkfifo(fifo)
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
    pid = int(pipe.readline())
    return program, pid, pipe


def gone(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


@pytest.mark.parametrize("method", start_methods())
@pytest.mark.parametrize("lifetime", ["joined", "bound"])
@pytest.mark.parametrize("ending", ["return", "thread", "exception", "_exit", "SIGTERM", "SIGKILL", "SIGINT"])
def test_the_end_of_the_parent(tmp_path: Path, method: str, lifetime: str, ending: str) -> None:
    program, pid, pipe = run(tmp_path, method, lifetime, ending)
    pidfd = os.pidfd_open(pid)
    try:
        program.communicate("\n", timeout=30)
        out, err = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
        assert out == "started\n"
        orderly = ending in ("return", "thread")
        outlives = lifetime == "joined" and ending in ("_exit", "SIGTERM", "SIGKILL")
        if outlives:
            assert not gone(pidfd, 0.2)
        else:
            assert gone(pidfd, 2.0)
            assert pipe.read() == ("finished\n" if orderly and lifetime == "joined" else "")
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
