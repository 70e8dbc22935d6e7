"""Finding and killing everything that a worker started.

While the worker lives, its descendants are a tree that hangs on it: it adopts orphans (PR_SET_CHILD_SUBREAPER),
so also a process that called setsid and whose parent ended is found there. Everything is stopped before
it is killed, from the root down, until a look finds nothing new: what is stopped cannot fork.

When the worker is dead its tree has come apart. What is left is known by the worker's process group and by the
marker in the environment of what it executed.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Set

from multitask._engine import clock
from multitask._engine.workers.entry import MARKER
from multitask._typing import NamedTuple

ROUNDS = 50  # looks at a tree that goes on growing
STOP_SECONDS = 0.02  # for the root to be seen stopped
DEATH_SECONDS = 0.25  # for what was killed outside the group to be seen dead
SCAN_SECONDS = 0.25  # of CPU, for looking through /proc
EXEC_SECONDS = 0.25  # for a process in the middle of an exec to show its environment
_DEAD = b"ZXx"
_STILL = b"TtZXx"
_BUSY = b"RD"
_SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)


class Stat(NamedTuple):
    state: bytes
    parent: int
    group: int
    born: int  # clock ticks since the machine started


def stat(pid: int) -> Stat | None:
    """What /proc says of a process; None when there is no such process (or no /proc)."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY)  # open() takes three times as long: one for each worker
        try:
            words = os.read(file, 4096).rpartition(b")")[2].split()
        finally:
            os.close(file)
        return Stat(words[0], int(words[1]), int(words[2]), int(words[19]))
    except (OSError, IndexError):
        return None


def born(pid: int) -> int | None:
    """When a process started: with the pid it names the process for ever."""
    found = stat(pid)
    return found.born if found else None


def children(pid: int) -> list[int]:
    """The children of a process, of all its threads."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
        except FileNotFoundError:
            if not os.path.exists("/proc/thread-self/children"):  # a kernel without that file
                return [other for other, it in _processes().items() if it.parent == pid]
        except OSError:  # that thread has ended
            pass
    return found


def kill(pid: int, birth: int | None, marker: str) -> list[int]:
    """Kill a worker, its group and its descendants; return those that were seen alive afterwards.

    Waits only (briefly) for processes outside the group to be dead, not for the worker itself. *birth* is
    ``born(pid)`` as it was at the start, None if it could not be read then. A number that belongs to another
    process by now, because somebody reaped the worker, is left alone.
    """
    now = stat(pid)
    if not hasattr(signal, "SIGSTOP") or (now is None and not os.path.exists("/proc/self")):
        return _kill_without_stopping(pid)
    ours = now is not None and birth in (now.born, None)
    if now is not None and not ours:
        return _kill_all(_stop_leftovers(None, marker, birth or 0))
    # The number of a group is not given out again while the group has members: without a leader it is still ours.
    _signal_group(pid, signal.SIGSTOP)
    if now is not None and now.state not in _DEAD:
        _signal(pid, signal.SIGSTOP)  # it may not have reached its own group yet
        others = _stop_below(pid)
    else:
        others = _stop_leftovers(pid, marker, birth or 0)
    return _kill_all(others, leader=pid if ours else None, group=pid)


def kill_below(root: int, spare: Set[int] = frozenset()) -> None:
    """Kill the descendants of *root*, which starts none meanwhile; waits only briefly for them to be dead.

    Not those in *spare*, nor what is below them.
    """
    _kill_all(_stop_below(root, still=True, spare=spare))


def _kill_without_stopping(pid: int) -> list[int]:
    """What can be done on a platform that cannot stop processes: what forks right now may be missed."""
    below = _with_descendants({pid}, _processes()) - {pid}
    _signal_group(pid, _SIGKILL)
    for other in below:
        _signal(other, _SIGKILL)
    return []


def _with_descendants(roots: set[int], processes: dict[int, Stat]) -> set[int]:
    found = set(roots)
    below = found
    while below:
        below = {pid for pid, it in processes.items() if it.parent in below} - found
        found |= below
    return found


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError, AttributeError):
        pass


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


class Held:
    """Processes found and stopped: pid -> descriptor of that very process (-1 where there are none)."""

    def __init__(self) -> None:
        self.fds: dict[int, int] = {}

    def stop(self, pid: int, parents: Iterable[int] | None) -> bool:
        """Stop one more; False if it is gone or (by *parents*) another process took its number."""
        fd = -1
        try:
            if hasattr(os, "pidfd_open"):
                fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        except OSError:  # out of descriptors: the number has to do
            pass
        found = stat(pid)
        if found is None or (parents is not None and found.parent not in parents):
            if fd >= 0:
                os.close(fd)
            return False
        self.fds[pid] = fd
        self.send(pid, signal.SIGSTOP)
        return True

    def send(self, pid: int, number: int) -> None:
        fd = self.fds[pid]
        try:
            if fd >= 0:
                signal.pidfd_send_signal(fd, number)
            else:
                os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def _stop_below(root: int, still: bool = False, spare: Set[int] = frozenset()) -> Held:
    """Stop all descendants of *root*, which has been told to stop, or is *still*, until a look finds nothing new."""
    held = Held()
    deadline = clock.monotonic() + STOP_SECONDS
    for _ in range(ROUNDS):
        at_rest = still or _at_rest(root)
        parents = {root, *held.fds}
        new = [pid for parent in parents for pid in children(parent) if pid not in parents and pid not in spare]
        grown = [pid for pid in new if held.stop(pid, parents)]
        if not grown and at_rest:
            break
        if not grown and clock.monotonic() > deadline:
            break
        if not at_rest:
            time.sleep(0.0002)  # nothing announces that somebody else's child has stopped
    return held


def _at_rest(pid: int) -> bool:
    found = stat(pid)
    return found is None or found.state in _STILL


def _stop_leftovers(group: int | None, marker: str, birth: int) -> Held:
    """Stop the members of *group*, what carries *marker*, and what they started."""
    held = Held()
    deadline = clock.monotonic() + EXEC_SECONDS
    for _ in range(ROUNDS):
        processes = _processes()
        wanted = {pid for pid, it in processes.items() if it.group == group and pid != group}
        marked, unsure = _marked(marker, processes, birth)
        wanted = _with_descendants(wanted | marked, processes)
        if [pid for pid in wanted - held.fds.keys() if held.stop(pid, None)]:
            continue
        if unsure <= held.fds.keys() or clock.monotonic() > deadline:
            break
        time.sleep(EXEC_SECONDS / ROUNDS)  # nothing announces the end of somebody else's exec
    return held


def _processes() -> dict[int, Stat]:
    """All processes but this one."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return {}
    me = os.getpid()
    found: dict[int, Stat] = {}
    for name in names:
        if name.isdigit() and int(name) != me:
            one = stat(int(name))
            if one is not None and one.state not in _DEAD:
                found[int(name)] = one
    return found


def _marked(marker: str, processes: dict[int, Stat], birth: int) -> tuple[set[int], set[int]]:
    """Those that carry the worker's marker and are not older than the worker; those that do not show yet whether.

    In the middle of an exec, after the old memory went and before the new one is in place, a process runs without
    an environment. Where it stays empty (``env -i``, a thread of the kernel) the process sleeps sooner or later.
    """
    found: set[int] = set()
    unsure: set[int] = set()
    needle = f"{MARKER}=".encode()
    own = marker.encode()
    deadline = time.thread_time() + SCAN_SECONDS
    for pid, it in processes.items():
        if time.thread_time() > deadline:
            break
        if it.born < birth:
            continue
        try:
            text = _environment(pid)
        except OSError:  # another user's, or gone
            continue
        if not text and it.state in _BUSY:
            unsure.add(pid)
        for line in text.split(b"\0"):
            if line.startswith(needle) and own in line[len(needle) :].split(b"/"):
                found.add(pid)
    return found, unsure


def _environment(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read()


def _kill_all(others: Held, leader: int | None = None, group: int | None = None) -> list[int]:
    """Kill all that stands still; return those outside the group that were not seen to die."""
    for pid in others.fds:
        others.send(pid, _SIGKILL)
    if group is not None:
        _signal_group(group, _SIGKILL)
    if leader is not None:
        _signal(leader, _SIGKILL)
    left = _still_alive(others)
    for fd in others.fds.values():
        if fd >= 0:
            os.close(fd)
    return left


def _still_alive(others: Held) -> list[int]:
    poll = select.poll()
    waiting = {fd: pid for pid, fd in others.fds.items() if fd >= 0}
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    deadline = clock.monotonic() + DEATH_SECONDS
    while waiting:
        rest = deadline - clock.monotonic()
        ready = poll.poll(max(rest, 0) * 1000)
        if not ready:
            break
        for fd, _ in ready:
            poll.unregister(fd)
            del waiting[fd]
    unseen = [pid for pid, fd in others.fds.items() if fd < 0 and not _dead(pid)]
    while unseen and clock.monotonic() < deadline:
        time.sleep(0.001)  # without pidfds nothing announces their end
        unseen = [pid for pid in unseen if not _dead(pid)]
    return sorted([*waiting.values(), *unseen])


def _dead(pid: int) -> bool:
    found = stat(pid)
    return found is None or found.state in _DEAD
