"""What this process owns besides memory: children, threads, descriptors, named shared memory.

A look is a snapshot; what came later and is still there is *left behind*. Something on its way out (a thread
about to end, a child being reaped) is waited for, each by its own means, up to GRACE_SECONDS.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import select
import sys
import tempfile
import threading
import time
from collections.abc import Set
from dataclasses import dataclass, field
from multiprocessing import shared_memory
from pathlib import Path

GRACE_SECONDS = 3.0
POLL_SECONDS = 0.02
SHARED_MEMORY = Path("/dev/shm")
_TEMPORARY = os.path.join(tempfile.gettempdir(), "")
# One for small shared objects stays in each process that made some; tests/faults/test_sharing_deaths.py counts them.
STAYING = tuple(f"{at}{name}" for name in ("multitask-arena", "multitask-locks") for at in ("/memfd:", _TEMPORARY))


@dataclass(frozen=True)
class Look:
    children: frozenset[int] = frozenset()
    threads: frozenset[threading.Thread] = frozenset()
    descriptors: dict[int, str] = field(default_factory=dict)
    memory: frozenset[str] = frozenset()


def look() -> Look:
    """All that this process owns now."""
    return Look(_children(), frozenset(threading.enumerate()), _descriptors(), _shared_memory())


def wait_until_clean(before: Look, spared: Set[str] = frozenset()) -> list[str]:
    """One line for each thing that was not there before and does not go away; empty when all is well."""
    deadline = time.monotonic() + GRACE_SECONDS
    gc.collect()
    left = _left(before, spared)
    while left and time.monotonic() < deadline:
        _wait_for_one(before, spared, deadline)
        gc.collect()
        left = _left(before, spared)
    return left


def _left(before: Look, spared: Set[str]) -> list[str]:
    lines: list[str] = []
    if "child" not in spared:
        lines += [f"child process {pid}: {_command(pid)}" for pid in sorted(_new_children(before))]
    if "thread" not in spared:
        lines += [f"thread {thread.name}{_stack(thread)}" for thread in _new_threads(before)]
    if "fd" not in spared:
        lines += [f"descriptor {fd}: {what}" for fd, what in sorted(_new_descriptors(before).items())]
    if "memory" not in spared:
        lines += [f"shared memory {SHARED_MEMORY / name}" for name in sorted(_new_memory(before))]
    return lines


def _wait_for_one(before: Look, spared: Set[str], deadline: float) -> None:
    """Wait for the first thing that can be waited for; look again soon for the others."""
    rest = max(deadline - time.monotonic(), 0.0)
    threads = [] if "thread" in spared else _new_threads(before)
    if threads and threads[0] is not threading.current_thread():
        threads[0].join(rest)
        return
    children = [] if "child" in spared else sorted(_new_children(before))
    if children and _state(children[0]) != "Z":
        _wait_for_exit(children[0], rest)
        return
    # A descriptor, a name or the reaping of a child: nothing announces its end.
    time.sleep(POLL_SECONDS)


def _wait_for_exit(pid: int, seconds: float) -> None:
    if not hasattr(os, "pidfd_open"):
        time.sleep(POLL_SECONDS)
        return
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        select.select([fd], [], [], seconds)
    finally:
        os.close(fd)


# --- children ---------------------------------------------------------------------------------------------


def _children() -> frozenset[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(int(pid) for pid in task.read_text().split())
        except OSError:  # that thread has ended
            pass
    return frozenset(found)


def _new_children(before: Look) -> set[int]:
    return {pid for pid in _children() - before.children if pid not in _servers() and _state(pid) is not None}


def _servers() -> set[int]:
    """Processes that are started once and stay for later pools: the fork server and the stdlib's helpers."""
    pids: set[int] = set()
    server = sys.modules.get("multitask._engine.workers.server")
    pid = getattr(server, "server_pid", lambda: None)()
    if pid is not None:
        pids.add(pid)
    for name, path in (
        ("multiprocessing.resource_tracker", "_resource_tracker._pid"),
        ("multiprocessing.forkserver", "_forkserver._forkserver_pid"),
    ):
        value: object = sys.modules.get(name)
        for attribute in path.split("."):
            value = getattr(value, attribute, None)
        if isinstance(value, int):
            pids.add(value)
    return pids


def _state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None


def _command(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        text = "?"
    return f"state {_state(pid)}, {text[:120].strip() or 'ended, not reaped'}"


# --- threads ----------------------------------------------------------------------------------------------


def _new_threads(before: Look) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread not in before.threads and thread.is_alive()]


def _stack(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return f", at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" if frame else ""


# --- descriptors ------------------------------------------------------------------------------------------


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for name in names:
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that listdir itself had open
            pass
    return found


def _new_descriptors(before: Look) -> dict[int, str]:
    kept = _server_descriptors()
    return {
        fd: what
        for fd, what in _descriptors().items()
        if before.descriptors.get(fd) != what
        and fd not in kept
        and what not in ("/dev/null", "/dev/urandom")
        and "/libffi.so" not in what  # its trampolines: opened with the first closure of ctypes, and kept
        and not what.startswith(STAYING)
    }


def _server_descriptors() -> set[int]:
    server = sys.modules.get("multitask._engine.workers.server")
    kept = set(getattr(server, "server_descriptors", lambda: ())())
    family = sys.modules.get("multitask._engine.family")
    kept |= getattr(family, "descriptors", set)()  # what the broker needs for itself; what was lent counts
    for name, path in (
        ("multiprocessing.resource_tracker", "_resource_tracker._fd"),
        ("multiprocessing.forkserver", "_forkserver._forkserver_alive_fd"),
    ):
        value: object = sys.modules.get(name)
        for attribute in path.split("."):
            value = getattr(value, attribute, None)
        if isinstance(value, int):
            kept.add(value)
    return kept


# --- named shared memory ----------------------------------------------------------------------------------


# What the standard library makes names nobody, and others' come and go as well: ours has our number in its name.
_MADE_BY_STDLIB = re.compile(r"sem\.|psm_|p\d+_")
_mine = (f"sem.mp{os.getpid()}-", f"p{os.getpid()}_")
multiprocessing.current_process()._config["semprefix"] = f"/mp{os.getpid()}"  # type: ignore[attr-defined]
shared_memory._SHM_NAME_PREFIX = f"/p{os.getpid()}_"  # type: ignore[attr-defined]


def _shared_memory() -> frozenset[str]:
    try:
        return frozenset(os.listdir(SHARED_MEMORY))
    except OSError:
        return frozenset()


def _new_memory(before: Look) -> set[str]:
    new = {
        name for name in _shared_memory() - before.memory if name.startswith(_mine) or not _MADE_BY_STDLIB.match(name)
    }
    return {name for name in new if not _used_by_a_stranger(name)} if new else set()


def _used_by_a_stranger(name: str) -> bool:
    """Whether a process that is no relation of ours has it mapped: then it is not ours to answer for."""
    ours = {os.getpid(), *_children()}
    needle = f"{SHARED_MEMORY / name}".encode()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if int(maps.parent.name) in ours:
            continue
        try:
            if needle in maps.read_bytes():
                return True
        except OSError:
            pass
    return False
