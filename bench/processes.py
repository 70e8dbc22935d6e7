"""What the processes of one measurement use: memory, switches, CPU; and how to find and end them all.

Every measurement runs under a token of its own in the environment, which every process that it starts
inherits, however it was started and whoever its parent is by now.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

TOKEN = "MULTITASK_BENCH_TOKEN"
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def marked(token: str) -> list[int]:
    """The processes that carry *token*, found by their environment; zombies are not among them."""
    mark = f"{TOKEN}={token}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if mark in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry))
    return found


def end_marked(token: str) -> int:
    """Kill what a measurement left behind, until nothing is left; how many processes there were."""
    ended: set[int] = set()
    while left := [pid for pid in marked(token) if pid != os.getpid()]:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        ended.update(left)
    return len(ended)


def become_reaper() -> None:
    """Let orphans of the measurements come to this process, so that their CPU time is counted."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> None:
    """Collect ended orphans."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _rollup(pid: int) -> dict[str, int]:
    """The sums over all mappings of a process, in bytes."""
    sums = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, amount = line.split(":")
            sums[name] = int(amount.split()[0]) * 1024
    return sums


def tree_memory(token: str) -> int:
    """Bytes that the marked processes hold; a page that several share is counted once."""
    return sum(_rollup(pid).get("Pss", 0) for pid in marked(token))


def _shared_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) * 1024
    return 0


def tree_use(token: str) -> int:
    """Bytes in use now: anonymous pages of the tree, and the shared memory of the whole machine.

    Shared memory is not asked of the processes, since a segment need not be mapped anywhere.
    """
    return sum(_rollup(pid).get("Pss_Anon", 0) for pid in marked(token)) + _shared_bytes()


class Peak:
    """The most memory in use inside a ``with``, beyond *before*; another process looks on, which no GIL stops."""

    def __init__(self, token: str, before: int) -> None:
        self._token = token
        self._before = before
        self.bytes = 0

    def __enter__(self) -> Peak:
        unmarked = {name: value for name, value in os.environ.items() if name != TOKEN}
        self._watcher = subprocess.Popen(
            [sys.executable, __file__, self._token], env=unmarked, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._watcher.stdout is not None
        self._watcher.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        answer, _rest = self._watcher.communicate()
        self.bytes = max(0, int(answer) - self._before)


def _watch(token: str, every_seconds: float = 0.005) -> None:
    """The other side of Peak: look until standard input ends, then print the most that was seen."""
    print("watching", flush=True)
    most = 0
    while not select.select([sys.stdin], [], [], every_seconds)[0]:
        most = max(most, tree_use(token))
    print(most)


def _threads(pids: list[int]) -> Iterator[Path]:
    for pid in pids:
        with contextlib.suppress(OSError):
            yield from Path(f"/proc/{pid}/task").iterdir()


def switches(token: str, but: int) -> dict[str, int]:
    """How often each thread of the tree was put to sleep or interrupted so far, the thread *but* left out."""
    counts = {}
    for thread in _threads(marked(token)):
        if thread.name == str(but):
            continue
        with contextlib.suppress(OSError):
            lines = (thread / "status").read_text().splitlines()
            counts[str(thread)] = sum(int(line.split()[1]) for line in lines if "_ctxt_switches" in line)
    return counts


def ticks(token: str, but: int) -> int:
    """CPU time of the tree's threads in clock ticks, the thread *but* left out."""
    total = 0
    for thread in _threads(marked(token)):
        if thread.name == str(but):
            continue
        with contextlib.suppress(OSError):
            fields = (thread / "stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total


def cpu_seconds(token: str) -> dict[int, float]:
    """CPU time of each marked process so far, to the nanosecond."""
    used: dict[int, float] = {}
    for pid in marked(token):
        for thread in _threads([pid]):
            with contextlib.suppress(OSError):
                used[pid] = used.get(pid, 0.0) + int((thread / "schedstat").read_text().split()[0]) / 1e9
    return used


def machine_busy_seconds() -> float:
    """CPU seconds that the whole machine has spent on anything, stolen time included."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq + steal) / ticks_per_second


if __name__ == "__main__":
    _watch(sys.argv[1])
