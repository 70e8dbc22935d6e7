"""Spawned workers where fork, pidfds, memfd, fcntl, resource, SIGKILL, SIGSTOP and epoll are missing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from multitask._engine.workers import reaping

SUPPORT = Path(__file__).parent.parent / "support"

TAKEN_AWAY = """
import os, select, signal, sys
for module, names in (
    (os, ("fork", "forkpty", "register_at_fork", "memfd_create", "pidfd_open", "P_PIDFD", "waitid")),
    (signal, ("SIGKILL", "SIGSTOP", "pidfd_send_signal")),
    (select, ("epoll",)),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.modules["fcntl"] = sys.modules["resource"] = None
sys.path.insert(0, sys.argv[1])
from multitask._engine.workers import process, reaping
assert process.start_methods() == ("spawn",)
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    code = TAKEN_AWAY + textwrap.dedent(body)
    command = [sys.executable, "-W", "error", "-c", code, str(SUPPORT)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_worker_starts_gets_its_descriptors_and_tells_its_exit_code() -> None:
    done = run(
        """
        read, write = os.pipe()
        worker = process.start_worker("spawn", {"target": "worker_targets:report"}, [write])
        os.close(write)
        with open(read) as file:
            seen = eval(file.read())
        assert seen["pid"] == worker.pid == seen["group"] and seen["inheritable"] == [False], seen
        assert reaping.wait(worker.fileno(), 30)
        assert worker.exitcode() == 7
        worker.close()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("_exit", 4), ("segfault", -11)])
def test_every_end_is_seen(how: str, code: int) -> None:
    done = run(
        f"""
        worker = process.start_worker("spawn", {{"target": "worker_targets:leave", "how": {how!r}}}, [])
        assert worker.exitcode() is None or not worker.alive()
        assert reaping.wait(worker.fileno(), 30)
        assert worker.exitcode() == {code}, worker.exitcode()
        worker.close()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_worker_is_killed_with_what_it_started() -> None:
    done = run(
        """
        read, write = os.pipe()
        worker = process.start_worker("spawn", {"target": "worker_targets:stay", "brood": ["session"]}, [write])
        os.close(write)
        with open(read) as file:
            print(file.readline(), flush=True)
        assert worker.alive() and worker.exitcode() is None
        worker.kill_tree()
        assert reaping.wait(worker.fileno(), 30)
        assert worker.exitcode() == -15, worker.exitcode()
        worker.close()
        """
    )
    for pid in done.stdout.split()[1:]:
        with contextlib.suppress(ProcessLookupError):  # it is not our child: it may be gone altogether
            fd = os.pidfd_open(int(pid))
            assert reaping.wait(fd, 2.0)
            os.close(fd)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_methods_are_refused_by_name() -> None:
    done = run(
        """
        for method in ("fork", "forkserver"):
            try:
                process.start_worker(method, {}, [])
            except Exception as error:
                assert "use one of: spawn" in str(error), error
            else:
                raise SystemExit("not refused")
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not reaping.has_pidfds(), reason="the test itself waits with pidfds")
@pytest.mark.parametrize("way", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_worker_dies_with_its_parent(way: str) -> None:
    code = TAKEN_AWAY + textwrap.dedent(
        f"""
        read, write = os.pipe()
        worker = process.start_worker("spawn", {{"target": "worker_targets:stay"}}, [write])
        os.close(write)
        with open(read) as file:
            print(file.readline(), end="", flush=True)
        sys.stdin.readline()
        {way}
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(SUPPORT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin and parent.stdout
        worker = os.pidfd_open(int(parent.stdout.readline()))
        parent.stdin.write("\n")
        parent.stdin.flush()
        parent.wait(30)
        died = reaping.wait(worker, 2.0)
        os.close(worker)
    assert died


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_without_pidfds_alone_both_other_methods_work_and_kill_everything(method: str) -> None:
    code = f"""
import os, sys
del os.pidfd_open
sys.path.insert(0, sys.argv[1])
from multitask._engine.workers import process, reaping
assert process.start_methods() == ("spawn", "fork")
for spec, kill, code in (
    ({{"target": "worker_targets:leave", "how": "exit"}}, False, 3),
    ({{"target": "worker_targets:stay", "brood": ["session", "child", "daemon"]}}, True, -9),
):
    read, write = os.pipe()
    worker = process.start_worker({method!r}, spec, [write])
    os.close(write)
    with open(read) as file:
        print(file.readline(), flush=True)
    if kill:
        assert worker.alive()
        assert worker.kill_tree() == []
    assert reaping.wait(worker.fileno(), 30)
    assert worker.exitcode() == code, worker.exitcode()
    worker.close()
"""
    command = [sys.executable, "-W", "error", "-c", code, str(SUPPORT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
