"""Worker processes: what they start with, how their end is seen, and that they take everything along."""

from __future__ import annotations

import ast
import os
import select
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multitask._engine.workers import forking, lifeline, reaping, server, tree
from multitask._engine.workers.process import WorkerProcess, start_worker

SUPPORT = Path(__file__).parent.parent / "support"
METHODS = ["fork", "forkserver", "spawn"]
PATIENCE_SECONDS = 30.0  # only detects a hang

pytestmark = pytest.mark.skipif(not reaping.has_pidfds(), reason="needs Linux with pidfds")


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Started:
    """Workers that a test starts; whatever is left of them is killed at its end."""

    def __init__(self) -> None:
        self.workers: list[WorkerProcess] = []
        self.strays: list[int] = []

    def __call__(self, method: str, target: str, fds: Any = (), inherited: object = None, **spec: Any) -> WorkerProcess:
        worker = start_worker(method, {"target": f"worker_targets:{target}", **spec}, fds, inherited)
        self.workers.append(worker)
        return worker

    def reading(self, method: str, target: str, **spec: Any) -> tuple[WorkerProcess, bytes]:
        """Start a worker with the write end of a pipe; return it and what it wrote there."""
        read, write = os.pipe()
        try:
            worker = self(method, target, [write], **spec)
        finally:
            os.close(write)
        with os.fdopen(read, "rb") as file:
            return worker, file.read()

    def staying(self, method: str, *brood: str, **spec: Any) -> tuple[WorkerProcess, list[int]]:
        """A worker that never ends, and the pids of what it has started."""
        read, write = os.pipe()
        worker = self(method, "stay", [write], brood=list(brood), **spec)
        os.close(write)
        line = b""
        while not line.endswith(b"\n"):
            more = os.read(read, 1000)
            if not more:
                break
            line += more
        os.close(read)
        pids = [int(word) for word in line.split()]
        assert pids[0] == worker.pid
        self.strays += pids[1:]
        return worker, pids[1:]


@pytest.fixture
def started() -> Iterator[Started]:
    workers = Started()
    yield workers
    for worker in workers.workers:
        worker.close()
    for pid in workers.strays:
        found = tree.stat(pid)
        if found is not None and found.state not in b"ZX":
            os.kill(pid, signal.SIGKILL)


def wait_dead(worker: WorkerProcess) -> None:
    assert reaping.wait(worker.fileno(), PATIENCE_SECONDS)


def gone(pids: list[int], seconds: float) -> list[int]:
    """The pids that are still alive after *seconds*."""
    left = []
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        if not reaping.wait(fd, seconds):
            left.append(pid)
        os.close(fd)
    return left


# --- what a worker starts with -----------------------------------------------------------------------------


def test_a_worker_is_cut_loose_from_its_parent(method: str, started: Started, tmp_path: Path, monkeypatch: Any) -> None:
    started(method, "leave", how="return")  # so that a fork server runs already, in another directory
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROM_THE_PARENT", "at the moment of the start")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["program", "word"])
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        worker, text = started.reading(method, "report")
    finally:
        signal.signal(signal.SIGUSR1, before)
    seen = ast.literal_eval(text.decode())
    assert seen["pid"] == seen["group"] == worker.pid
    assert seen["cwd"] == str(tmp_path) and seen["path"] == sys.path and seen["argv"] == ["program", "word"]
    assert seen["environ"]["FROM_THE_PARENT"] == "at the moment of the start"
    assert seen["environ"]["MULTITASK_WORKER"].endswith(worker.marker)
    assert seen["stdin"] == "" and seen["sigint"] and seen["sigttou"] and seen["sigusr1"] and seen["mask"] == []
    assert seen["inheritable"] == [False]
    if method != "fork":
        assert not seen["numpy"] and seen["main"] is None
    wait_dead(worker)
    assert worker.exitcode() == 7


def test_descriptors_arrive_in_order(method: str, started: Started) -> None:
    pipes = [os.pipe() for _ in range(4)]
    for number, (_, write) in enumerate(pipes[:3]):
        os.write(write, str(number).encode())
    started(method, "echo", [pipes[2][0], pipes[0][0], pipes[1][0], pipes[3][1]])
    os.close(pipes[3][1])
    with os.fdopen(pipes[3][0], "rb") as answers:
        assert answers.read() == b"201"
    for read, write in pipes[:3]:
        os.close(read)
        os.close(write)


def test_nothing_of_the_library_leaks_into_a_worker(method: str, started: Started) -> None:
    idle, _ = started.staying(method)
    worker, text = started.reading(method, "report")
    seen = ast.literal_eval(text.decode())["fds"]
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in (*lifeline.descriptors(), idle.fileno())]
    assert seen.count(links[0]) == 1  # its own read end of the lifeline, and no write end
    assert not [link for link in seen if link.startswith("socket:") and link in _own_links(server.server_descriptors())]
    assert not [link for link in seen if "pidfd" in link]
    assert worker.alive() or worker.exitcode() == 7


def _own_links(fds: Any) -> list[str]:
    return [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]


def test_only_a_forked_worker_gets_the_live_object(method: str, started: Started) -> None:
    read, write = os.pipe()
    started(method, "report", [write], inherited=["alive"])
    os.close(write)
    with os.fdopen(read) as file:
        seen = ast.literal_eval(file.read())
    assert seen["inherited"] == (["alive"] if method == "fork" else None)


def test_output_goes_where_the_parent_writes_now_and_appears_once(method: str, started: Started, capfd: Any) -> None:
    sys.stdout.write("buffered by the parent|")
    worker = started(method, "talk", text="from the worker")
    wait_dead(worker)
    sys.stdout.write("after")
    sys.stdout.flush()
    assert capfd.readouterr().out == "buffered by the parent|from the worker\nafter"


def test_a_large_order_arrives(method: str, started: Started, capfd: Any) -> None:
    worker = started(method, "talk", text="x" * 1_000_000)
    out = b""
    wait_dead(worker)
    assert len(capfd.readouterr().out) == 1_000_001 and not out


def test_a_closed_standard_output_is_no_obstacle(method: str) -> None:
    code = (
        "import os, sys; os.close(1); os.close(0); sys.path.insert(0, sys.argv[1])\n"
        "from multitask._engine.workers.process import start_worker\n"
        "read, write = os.pipe()\n"
        f"w = start_worker({method!r}, {{'target': 'worker_targets:report'}}, [write])\n"
        "os.close(write)\n"
        "answer = os.read(read, 1)\n"
        "w.close()\n"
        "os._exit(answer != b'{')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(SUPPORT)], stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "flags", [["-W", "error"], ["-X", "dev", "-W", "error"], ["-I"], ["-OO", "-B"], ["-X", "utf8"]]
)
def test_the_interpreters_flags_are_carried_and_do_not_break_a_worker(method: str, flags: list[str]) -> None:
    code = (
        "import os, sys, threading; sys.path.insert(0, sys.argv[1])\n"
        "from multitask._engine.workers.process import start_worker\n"
        "gate = threading.Event(); threading.Thread(target=gate.wait).start()\n"
        "read, write = os.pipe()\n"
        f"w = start_worker({method!r}, {{'target': 'worker_targets:report'}}, [write])\n"
        "os.close(write)\n"
        "with open(read) as file: seen = eval(file.read())\n"
        "assert seen['warnoptions'] == sys.warnoptions, seen['warnoptions']\n"
        "w.close(); gate.set()\n"
    )
    command = [sys.executable, *flags, "-c", code, str(SUPPORT)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_fork_does_not_warn_about_threads_of_which_the_user_cannot_know(monkeypatch: Any) -> None:
    def fork_as_in_3_12() -> int:
        text = "This process (pid=1) is multi-threaded, use of fork() may lead to deadlocks in the child."
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return 1234

    monkeypatch.setattr(os, "fork", fork_as_in_3_12)
    monkeypatch.setattr(forking, "_python_warns", True)
    for _ in range(2):  # the second list of filters is another one
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert forking.fork() == 1234
            with pytest.raises(DeprecationWarning):
                os.fork()


# --- how its end is seen ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "code"), [("return", 0), ("exit", 3), ("text", 1), ("_exit", 4), ("segfault", -11), ("raise", 1)]
)
def test_every_end_is_seen_and_told(method: str, how: str, code: int, started: Started, capfd: Any) -> None:
    worker = started(method, "leave", how=how)
    epoll = select.epoll()
    epoll.register(worker.fileno(), select.EPOLLIN)
    assert epoll.poll(PATIENCE_SECONDS)
    epoll.close()
    assert worker.exitcode() == code == worker.exitcode()
    assert not worker.alive()
    said = capfd.readouterr().err
    assert ("this worker fails" in said) == (how == "raise") and ("that is all" in said) == (how == "text")


def test_an_exit_code_is_none_while_the_worker_runs(method: str, started: Started) -> None:
    worker, _ = started.staying(method)
    assert worker.exitcode() is None and worker.alive()
    worker.kill_tree()
    wait_dead(worker)
    assert worker.exitcode() == -signal.SIGKILL


def test_a_status_that_the_users_wait_took_is_unknown_or_right(method: str, started: Started) -> None:
    worker = started(method, "leave", how="exit")
    wait_dead(worker)
    if method != "forkserver":
        assert os.waitpid(worker.pid, 0)[0] == worker.pid
    assert worker.exitcode() in (3, None)
    assert worker.kill_tree() == []


def test_the_status_survives_an_ignored_sigchld(method: str, started: Started) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        worker = started(method, "leave", how="exit")
        wait_dead(worker)
        assert worker.exitcode() in (3, None)
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("quick", ["fork", "spawn"])
def test_a_worker_reaped_before_it_could_be_named_is_one_that_ended(
    quick: str, started: Started, monkeypatch: Any
) -> None:
    open_pidfd = os.pidfd_open

    def open_too_late(pid: int, flags: int = 0) -> int:
        signal.pidfd_send_signal(fd := open_pidfd(pid), signal.SIGKILL)
        os.close(fd)
        os.waitpid(pid, 0)
        return open_pidfd(pid, flags)

    monkeypatch.setattr(os, "pidfd_open", open_too_late)
    worker = started(quick, "leave", how="exit")
    monkeypatch.undo()
    wait_dead(worker)
    assert worker.exitcode() is None and not worker.alive()
    assert worker.kill_tree() == []


def test_atexit_handlers_and_finally_blocks_of_the_parent_do_not_run_in_a_forked_worker() -> None:
    code = (
        "import atexit, os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from multitask._engine.workers.process import start_worker, reaping\n"
        "atexit.register(print, 'handler')\n"
        "try:\n"
        "    w = start_worker('fork', {'target': 'worker_targets:leave', 'how': sys.argv[2]}, [])\n"
        "finally: print('finally')\n"
        "assert reaping.wait(w.fileno(), 30)\n"
        "w.close()\n"
    )
    for how in ("return", "exit", "raise"):
        command = [sys.executable, "-c", code, str(SUPPORT), how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.stdout.split() == ["finally", "handler"]


def test_closing_a_worker_that_runs_kills_it(method: str, started: Started) -> None:
    worker, (child,) = started.staying(method, "child")
    worker.close()
    assert gone([worker.pid, child], 2.0) == []
    worker.close()
    assert worker.kill_tree() == []
    with pytest.raises(ValueError):
        worker.fileno()


# --- killing the tree ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["child", "session", "daemon", "forked daemon"])
def test_killing_takes_every_descendant_along(method: str, kind: str, started: Started) -> None:
    worker, brood = started.staying(method, kind, "child", kind)
    assert worker.kill_tree() == []
    wait_dead(worker)
    assert gone(brood, 2.0) == []
    assert worker.exitcode() == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["child", "session", "daemon"])
def test_what_a_dead_worker_left_is_found(method: str, kind: str, started: Started) -> None:
    worker, brood = started.staying(method, kind, kind, end=True)
    wait_dead(worker)
    assert worker.kill_tree() == []
    assert gone(brood, 2.0) == []
    assert worker.exitcode() == 5


def test_what_is_left_in_the_middle_of_an_exec_is_found(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """For some microseconds of an exec a process runs and has no environment: here it looks so three times."""
    worker, brood = started.staying("spawn", "session", end=True)
    wait_dead(worker)
    looks: list[int] = []

    def environment(pid: int) -> bytes:
        if pid not in brood or len(looks) == 3:
            return shown(pid)
        looks.append(pid)
        return b""

    def processes() -> dict[int, tree.Stat]:
        return {pid: it._replace(state=b"R") if pid in brood else it for pid, it in listed().items()}

    shown, listed = tree._environment, tree._processes
    monkeypatch.setattr(tree, "_environment", environment)
    monkeypatch.setattr(tree, "_processes", processes)
    assert worker.kill_tree() == []
    assert len(looks) == 3 and gone(brood, 2.0) == []


def test_what_is_left_is_found_when_somebody_else_reaped_the_worker(started: Started) -> None:
    worker, brood = started.staying("fork", "child", "session", end=True)
    wait_dead(worker)
    os.waitpid(worker.pid, 0)
    assert worker.kill_tree() == []
    assert gone(brood, 2.0) == []


def test_killing_one_worker_leaves_the_others_alone(method: str, started: Started) -> None:
    first, brood = started.staying(method, "session")
    second, others = started.staying(method, "session", "child")
    first.kill_tree()
    wait_dead(first)
    assert gone(brood, 2.0) == []
    assert second.alive() and gone(others, 0.0) == others
    second.kill_tree()


def test_a_stopped_worker_is_killed(method: str, started: Started) -> None:
    worker, brood = started.staying(method, "child")
    os.kill(worker.pid, signal.SIGSTOP)
    os.kill(brood[0], signal.SIGSTOP)
    assert worker.kill_tree() == []
    wait_dead(worker)
    assert gone(brood, 2.0) == []


def test_killing_at_once_after_the_start_leaves_nothing(method: str, started: Started) -> None:
    for _ in range(10):
        worker = started(method, "stay", [1], brood=[])
        worker.kill_tree()
        wait_dead(worker)
        assert worker.exitcode() == -signal.SIGKILL
        worker.close()


# --- the parent's other forks and threads -------------------------------------------------------------------


def test_a_fork_of_the_user_holds_nothing_open(method: str, started: Started) -> None:
    worker, _ = started.staying(method)
    read, write = os.pipe()
    fds = [*lifeline.descriptors(), worker.fileno(), *server.server_descriptors()]
    pid = os.fork()
    if pid == 0:
        try:
            still = [fd for fd in fds if _is_open(fd)]
            worker.kill_tree()
            worker.close()
            os.write(write, repr((still, lifeline.descriptors(), server.server_pid())).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as file:
        assert ast.literal_eval(file.read()) == ([], (), None)
    assert worker.alive()


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
        return True
    except OSError:
        return False


def test_a_forked_child_of_the_user_can_start_workers_itself(method: str, started: Started) -> None:
    started.staying(method)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            inner = start_worker(method, {"target": "worker_targets:leave", "how": "exit"}, [])
            reaping.wait(inner.fileno(), PATIENCE_SECONDS)
            code = inner.exitcode() or 1
            inner.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


def test_callbacks_run_in_forked_children_after_the_descriptors_are_closed(monkeypatch: Any) -> None:
    monkeypatch.setattr(forking, "_callbacks", [*forking._callbacks])
    read, write = os.pipe()
    lifeline.read_end()
    forking.in_forked_child(lambda: os.write(write, repr(lifeline.descriptors()).encode()) and None)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as file:
        assert file.read() == "()"


def test_many_threads_start_workers_at_once(method: str, started: Started) -> None:
    barrier = threading.Barrier(6)
    codes: list[int | None] = []

    def begin() -> None:
        barrier.wait()
        for _ in range(3):
            worker = start_worker(method, {"target": "worker_targets:leave", "how": "exit"}, [])
            reaping.wait(worker.fileno(), PATIENCE_SECONDS)
            codes.append(worker.exitcode())
            worker.close()

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [3] * 18
