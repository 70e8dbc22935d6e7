"""Worker processes when something else dies: the parent in every way, the fork server; and what many starts leave."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripts import FORKS_SAID, run

from multitask import errors
from multitask._engine import family
from multitask._engine.workers import reaping, server, tree
from multitask._engine.workers.process import WorkerProcess, start_worker

SUPPORT = Path(__file__).parent.parent / "support"
METHODS = ["fork", "forkserver", "spawn"]
WAYS = ["return", "exception", "_exit", "exec", "SIGTERM", "SIGINT", "SIGKILL", "stopped"]
PATIENCE_SECONDS = 30.0  # only detects a hang
GRACE_SECONDS = 2.0  # the promise: no worker is left after this time

pytestmark = pytest.mark.skipif(not reaping.has_pidfds(), reason="needs Linux with pidfds")


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def staying(method: str, **spec: Any) -> Iterator[WorkerProcess]:
    """A worker that never ends by itself and has begun its work."""
    read, write = os.pipe()
    worker = start_worker(method, {"target": "worker_targets:stay", **spec}, [write])
    os.close(write)
    with os.fdopen(read, "rb") as file:
        assert int(file.readline()) == worker.pid
    try:
        yield worker
    finally:
        worker.close()


def finish(worker: WorkerProcess) -> int | None:
    assert reaping.wait(worker.fileno(), PATIENCE_SECONDS)
    code = worker.exitcode()
    worker.close()
    return code


# --- the parent ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["main", "thread"])
@pytest.mark.parametrize("way", WAYS)
def test_no_worker_outlives_its_parent(method: str, way: str, where: str) -> None:
    """Idle with a child of its own, and busy in C with the GIL held; however the parent ends."""
    command = [sys.executable, str(SUPPORT / "worker_parent.py"), method, way, where]
    parent = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    assert parent.stdin and parent.stdout and parent.stderr
    pids = [int(pid) for _ in range(2) for pid in parent.stdout.readline().split()]
    assert len(pids) == 3
    watched = {pid: os.pidfd_open(pid) for pid in {*pids, *tree.children(parent.pid)}}
    if way == "stopped":
        os.kill(pids[2], signal.SIGSTOP)
    parent.stdin.write("\n")
    parent.stdin.flush()
    begun = time.monotonic()
    if way != "exec":
        parent.wait(PATIENCE_SECONDS)
        begun = time.monotonic()
    left = [
        pid for pid, fd in watched.items() if not reaping.wait(fd, max(begun + GRACE_SECONDS - time.monotonic(), 0.0))
    ]
    if way == "exec":
        parent.kill()
        parent.wait()
    for fd in watched.values():
        os.close(fd)
    said = parent.stderr.read()
    for stream in (parent.stdin, parent.stdout, parent.stderr):
        stream.close()
    assert left == []
    if way not in ("exception", "SIGINT"):
        assert said == ""
    else:
        assert said.count("Traceback") == 1 and "Exception ignored" not in said


# --- the fork server ----------------------------------------------------------------------------------------


def kill_server() -> int:
    """Kill this process's fork server and wait for its death."""
    pid = server.server_pid()
    assert pid
    fd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert reaping.wait(fd, PATIENCE_SECONDS)
    os.close(fd)
    return pid


def test_workers_go_on_when_the_server_is_killed_and_the_next_start_makes_a_new_one() -> None:
    with staying("forkserver") as first:
        old = kill_server()
        assert first.alive()
        with staying("forkserver") as second:
            assert server.server_pid() not in (None, old)
            assert second.alive() and first.alive()
        first.kill_tree()
        assert reaping.wait(first.fileno(), PATIENCE_SECONDS)
        assert first.exitcode() in (None, -signal.SIGKILL)


def test_a_server_killed_again_and_again_while_workers_start_loses_none() -> None:
    done = threading.Event()
    with staying("forkserver"):
        pass

    def kill_now_and_then() -> None:
        while not done.wait(0.03):
            pid = server.server_pid()
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    begun = refused = 0
    try:
        for _ in range(15):
            try:
                worker = start_worker("forkserver", {"target": "worker_targets:leave", "how": "exit"}, [])
            except errors.PoolBroken:  # killed in all its attempts
                refused += 1
                continue
            begun += 1
            assert finish(worker) in (3, None)
    finally:
        done.set()
        killer.join()
    assert begun + refused == 15


def test_a_stopped_server_is_replaced(monkeypatch: Any) -> None:
    with staying("forkserver"):
        pass
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.3)
    pid = server.server_pid()
    assert pid
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(server.Server, "__init__", _with_patience(monkeypatch, server.Server.__init__))
    with staying("forkserver") as worker:
        assert worker.alive() and server.server_pid() != pid
    assert tree.stat(pid) is None


def _with_patience(monkeypatch: Any, begin: Any) -> Any:
    def init(self: Any) -> None:
        monkeypatch.setattr(server, "ANSWER_SECONDS", 20.0)
        begin(self)

    return init


def test_an_exit_code_is_not_waited_for_from_a_stopped_server(monkeypatch: Any) -> None:
    worker = start_worker("forkserver", {"target": "worker_targets:leave", "how": "exit"}, [])
    assert reaping.wait(worker.fileno(), PATIENCE_SECONDS)
    pid = server.server_pid()
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        monkeypatch.setattr(server, "ANSWER_SECONDS", 0.2)
        assert worker.exitcode() is None
    finally:
        os.kill(pid, signal.SIGCONT)
        worker.close()


def test_a_start_interrupted_by_ctrl_c_leaves_no_worker(method: str, monkeypatch: Any) -> None:
    from multitask._engine.workers import launching

    with staying(method):
        pass
    before = set(tree.children(os.getpid()))

    def interrupted(fd: int, order: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "send", interrupted)
    monkeypatch.setattr(os, "setpgid", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        start_worker(method, {"target": "worker_targets:stay"}, [1])
    assert set(tree.children(os.getpid())) <= before
    monkeypatch.undo()
    pid = server.server_pid()
    if method == "forkserver" and pid:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while tree.children(pid) and time.monotonic() < deadline:  # nothing announces the death of another's child
            time.sleep(0.001)
        assert tree.children(pid) == []


def test_orphans_that_the_server_adopts_are_reaped() -> None:
    pid = None
    with staying("forkserver"):
        server_process = server.server_pid()
        assert server_process
        read, write = os.pipe()
        worker = start_worker(
            "forkserver", {"target": "worker_targets:stay", "brood": ["session"], "end": True}, [write]
        )
        os.close(write)
        with os.fdopen(read, "rb") as file:
            pid = int(file.readline().split()[1])
        assert reaping.wait(worker.fileno(), PATIENCE_SECONDS)
        assert tree.stat(pid).parent == server_process  # type: ignore[union-attr]
        fd = os.pidfd_open(pid)
        worker.kill_tree()
        worker.close()
        assert reaping.wait(fd, PATIENCE_SECONDS)
        os.close(fd)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while tree.stat(pid) is not None and time.monotonic() < deadline:
            time.sleep(0.001)
        assert tree.stat(pid) is None


# --- what many starts leave, and what happens when the system refuses -----------------------------------------


def belongings() -> tuple[int, int, int]:
    """Open descriptors but the broker's, which hears of other tests' dead; children; children of the fork server."""
    pid = server.server_pid()
    below = tree.children(pid) if pid else []
    return len(os.listdir("/proc/self/fd")) - len(family.descriptors()), len(tree.children(os.getpid())), len(below)


def nothing_more_than(before: tuple[int, int, int]) -> bool:
    """Fewer may be: what an earlier test had open may be closed meanwhile."""
    return all(now <= then for now, then in zip(belongings(), before, strict=True))


@pytest.mark.parametrize(("cycled", "cycles"), [("fork", 300), ("forkserver", 300), ("spawn", 40)])
def test_cycles_of_start_and_kill_leave_nothing(cycled: str, cycles: int, capfd: Any) -> None:
    with staying(cycled):
        pass
    gc.collect()
    before = belongings()
    server_pid = server.server_pid() if cycled == "forkserver" else None
    server_fds = len(os.listdir(f"/proc/{server_pid}/fd")) if server_pid else 0
    for cycle in range(cycles):
        worker = start_worker(cycled, {"target": "worker_targets:stay"}, [2])
        if cycle % 3:
            worker.kill_tree()
            assert finish(worker) == -signal.SIGKILL
        else:
            worker.close()
    wait_until(lambda: nothing_more_than(before))
    if server_pid:
        assert server.server_pid() == server_pid
        wait_until(lambda: len(os.listdir(f"/proc/{server_pid}/fd")) <= server_fds)
    said = capfd.readouterr().err.split()
    assert all(word.isdigit() for word in said)  # the pids that the workers told, and nothing else


def test_running_out_of_descriptors_is_a_clear_error_and_leaves_nothing(method: str, capfd: Any) -> None:
    with staying(method):
        pass
    gc.collect()
    before = belongings()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused = 0
    for spare in range(12):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit_that_leaves(spare), hard))
        try:
            worker = start_worker(method, {"target": "worker_targets:leave", "how": "exit"}, [])
        except errors.PoolBroken as error:
            refused += 1
            assert "Too many open files" in str(error) and "ulimit -n" in str(error)
        else:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            # A forked worker has as few descriptors as its parent: it may be the one that has too few.
            assert finish(worker) == 3 or "Too many open files" in capfd.readouterr().err
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wait_until(lambda: nothing_more_than(before))
    assert 0 < refused < 12


def limit_that_leaves(spare: int, pid: str | int = "self") -> int:
    """The limit of descriptors under which just *spare* more can be opened."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    if pid == "self":
        taken.discard(max(taken))  # listdir's own, unless something sits above it
        taken = {fd for fd in range(max(taken) + 1) if _is_open(fd)}
    limit = 0
    while spare > 0 or limit in taken:
        spare -= limit not in taken
        limit += 1
    return limit


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
        return True
    except OSError:
        return False


def wait_until(true: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():  # the fork server's children: nothing announces their end to us
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_server_without_descriptors_refuses_and_lives() -> None:
    with staying("forkserver"):
        pass
    pid = server.server_pid()
    assert pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit_that_leaves(2, pid), limits[1]))
    try:
        with pytest.raises(errors.PoolBroken, match="no descriptors left"):
            start_worker("forkserver", {"target": "worker_targets:stay"}, [2])
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    with staying("forkserver") as worker:
        assert worker.alive() and server.server_pid() == pid


def test_a_refused_process_is_a_clear_error(monkeypatch: Any) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(errors.PoolBroken, match="ulimit -u"):
        start_worker("fork", {"target": "worker_targets:stay"}, [2])


def test_an_unknown_start_method_names_those_that_work() -> None:
    with pytest.raises(errors.NotSupported, match="forkserver, fork, spawn"):
        start_worker("vfork", {}, [])


# --- a child that is forked beside the owner --------------------------------------------------------------------------

HELD_BY_A_THREAD = f"""
import os, sys
sys.path.append({str(SUPPORT)!r})
from fork_beside import fork_beside
from multitask._engine.workers.process import start_worker

def make():
    read, write = os.pipe()
    worker = start_worker(sys.argv[1], {{"target": "worker_targets:stay"}}, [write])
    os.close(write)
    with os.fdopen(read, "rb") as file:
        file.readline()
    return worker

def use(worker):
    alive = worker.alive()
    worker.close()
    return alive

print(*fork_beside(make, use))
"""


def test_a_forked_child_kills_no_worker_that_another_thread_owns(tmp_path: Path, method: str) -> None:
    script = run(tmp_path, HELD_BY_A_THREAD, method, flags=("-W", "error", *FORKS_SAID))
    assert (script.process.returncode, script.out, script.err) == (0, "0 True\n", "")
