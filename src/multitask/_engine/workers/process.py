"""A worker process: how it is started, seen to end, and killed with everything that it started.

``start_worker`` is the one door for the three start methods. What the new process does before the worker's own
code runs is in entry.py; who owns what, and what happens when either side dies, is in README.md beside this.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import atexit
import errno
import itertools
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from multitask import errors
from multitask._engine.workers import entry, forking, launching, lifeline, reaping, server, spawned, tree
from multitask._typing import Any, NoReturn
from multitask.errors import PoolBroken  # now: when no descriptor is left, it is too late

__all__ = ["WorkerProcess", "start_methods", "start_worker"]

DEATH_SECONDS = 2.0  # for a killed worker to be dead when its last owner lets go

_NOBODY = -1  # a birth that no process has
_numbers = itertools.count(1)
_living: weakref.WeakValueDictionary[str, WorkerProcess] = weakref.WeakValueDictionary()
_unreaped: list[reaping.Reaper] = []  # killed, but not dead when their owner let go


class WorkerProcess:
    """One worker. Usable by any thread of the process that started it; in a forked child it does nothing.

    Close it when it has ended; closing it before, or dropping it, kills it.
    """

    def __init__(self, pid: int, reaper: reaping.Reaper, marker: str) -> None:
        self.pid = pid
        self.marker = marker
        self._reaper: reaping.Reaper | None = reaper
        self._born = tree.born(pid)
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._reaped = False
        self._code: int | None = None
        _living[marker] = self

    def __repr__(self) -> str:
        if self._reaped:
            state = f"ended with {self._code}"
        elif self._reaper is None or self._foreign():
            state = "closed"
        else:
            state = "ended" if self._reaper.ended() else "alive"
        return f"<WorkerProcess {self.pid} {state}>"

    def fileno(self) -> int:
        """A descriptor that becomes readable when the process is dead; for select, poll and epoll."""
        if self._reaper is None or self._foreign():
            raise ValueError("this worker process is closed")
        return self._reaper.fileno()

    def alive(self) -> bool:
        """Whether it still runs."""
        with self._lock:
            return not (self._reaped or self._reaper is None or self._foreign()) and not self._reaper.ended()

    def exitcode(self) -> int | None:
        """The exit code, -N after signal N; None while it runs, and when it ended and nobody knows how.

        Reaps the process the first time. Kill its tree before: its group's number is only then surely its own.
        """
        with self._lock:
            if not self._reaped and self._reaper is not None and not self._foreign() and self._reaper.ended():
                self._code = self._reaper.status()
                self._reaped = True
            return self._code

    def kill_tree(self) -> list[int]:
        """Kill the process, its group and all its descendants, also those that left the group.

        Returns the pids of descendants outside the group that were not seen to die (another user's, or stuck in
        the kernel). The end of the worker itself is seen at ``fileno()``.
        """
        with self._lock:
            if self._reaper is None or self._foreign():
                return []
            return tree.kill(self.pid, _NOBODY if self._reaped else self._born, self.marker)

    def close(self) -> None:
        """Give the descriptors back. A process that still runs is killed with its tree."""
        if self._foreign():
            self._reaper = None
            return
        if self.alive():
            self.kill_tree()
            reaping.wait(self.fileno(), DEATH_SECONDS)
        self.exitcode()
        with self._lock:
            reaper, self._reaper = self._reaper, None
        if reaper is not None and self._reaped:
            reaper.close()
        elif reaper is not None:
            _unreaped.append(reaper)

    def __del__(self) -> None:
        if getattr(self, "_reaper", None) is not None and not sys.is_finalizing():
            self.close()

    def _foreign(self) -> bool:
        """Whether this is a copy in a forked child, whose descriptors are closed, or are about to be.

        What only other threads held is finalized there before any hook runs, so no hook can say that it is one.
        """
        return self._owner != os.getpid()


def start_methods() -> tuple[str, ...]:
    """The start methods that work on this platform, the best first."""
    if not hasattr(os, "fork"):
        return ("spawn",)
    if sys.platform == "linux" and reaping.has_pidfds():
        return ("forkserver", "fork", "spawn")
    return ("spawn", "fork")


def start_worker(
    method: str, spec: dict[str, Any], fds: Sequence[int], inherited: object | None = None, *, bound: bool = True
) -> WorkerProcess:
    """Run ``multitask._engine.child.main(spec, fds, inherited)`` in a new process and return it at once.

    *fds* arrive as open, close-on-exec descriptors in the same order, under any numbers; the caller keeps his.
    *inherited* reaches a forked child only. One that is not *bound* may outlive this process.
    ``spec["target"]`` ("module:function") may name another function.
    Raises NotSupported for a method that this platform lacks, PoolBroken when the system refuses a process.
    """
    if method not in start_methods():
        raise errors.NotSupported(
            f"start method {method!r} is not available here",
            fix=f"use one of: {', '.join(start_methods())}",
        )
    _reap_late()
    marker = f"{os.getpid()}-{next(_numbers)}"
    with _telling_why(method):
        if method == "forkserver":
            return _fork_by_server(spec, fds, marker, bound)
        with _signals_blocked():
            if method == "fork":
                return _fork(spec, fds, inherited, marker, bound)
            return _spawn(spec, fds, marker, bound)


@contextmanager
def _telling_why(method: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PoolBroken(
            f"could not start a worker process ({method})",
            why=str(error),
            fix=_REMEDIES.get(error.errno or 0),
        ) from error


_REMEDIES = {
    errno.EMFILE: "close files, or raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close files: the whole machine has none left",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or start fewer workers",
    errno.ENOMEM: "free memory, or start fewer workers",
}


class _Parcel:
    """Descriptors on their way to a worker; what was not given away is closed at the end."""

    def __init__(self) -> None:
        self._mine: list[int] = []

    def __enter__(self) -> _Parcel:
        return self

    def __exit__(self, *_: object) -> None:
        while self._mine:
            forking.disown(self._mine.pop())

    def pipe(self) -> tuple[int, int]:
        ends = forking.pipe()
        self._mine.extend(ends)
        return ends

    def open_null(self) -> int:
        with forking.gate:
            fd = forking.own(os.open(os.devnull, os.O_RDWR))
        self._mine.append(fd)
        return fd

    def give_away(self, fd: int) -> int:
        self._mine.remove(fd)
        return fd

    def drop(self, fd: int) -> None:
        self._mine.remove(fd)
        forking.disown(fd)


def _fork(
    spec: dict[str, Any], fds: Sequence[int], inherited: object | None, marker: str, bound: bool
) -> WorkerProcess:
    entry.prepare()
    _flush_streams()
    with _Parcel() as parcel, forking.gate:
        read, write = (-1, -1) if reaping.has_pidfds() else parcel.pipe()
        copies: list[int] = []
        try:
            # Copies, because the fork callbacks close the originals in the child.
            for fd in (lifeline.read_end(), *fds, *([write] if write >= 0 else ())):
                copies.append(os.dup(fd))
            pid = _fork_into(lambda: _become_worker(copies, write >= 0, spec, inherited, marker, bound))
        finally:
            for fd in copies:
                os.close(fd)
        reaper: reaping.Reaper
        if write < 0:
            reaper = reaping.ByPidfd(_pidfd_of_child(pid))
        else:
            reaper = reaping.ByPipe(pid, parcel.give_away(read))
    try:
        os.setpgid(pid, pid)
    except OSError:  # it did so itself, or is dead
        pass
    return WorkerProcess(pid, reaper, marker)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """No Ctrl-C between the start of a process and its having an owner, nor in the first steps of a forked child."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The functions beneath those of signal.py, which make an enum of each of sixty numbers: 0.1 ms a call.
    before = _signal.pthread_sigmask(signal.SIG_BLOCK, _signal.valid_signals())
    try:
        yield
    finally:
        _signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _fork_into(child: Callable[[], NoReturn]) -> int:
    """Fork; in the child call *child* and never come back, whatever happens there."""
    pid = forking.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(1)
    return pid


def _become_worker(
    copies: list[int], sentinel: bool, spec: dict[str, Any], inherited: object | None, marker: str, bound: bool
) -> NoReturn:
    try:
        atexit._clear()  # the handlers are those of the parent
        atexit.register(_close_all)
        if sentinel:
            spawned.keep_sentinel(copies.pop())
        line, *fds = copies
        if not bound:
            os.close(line)
        entry.isolate(line if bound else None)
        entry.mark(marker)
    except BaseException:
        entry.complain()
        os._exit(1)
    entry.run(spec, fds, inherited)


def _pidfd_of_child(pid: int) -> int:
    """A pidfd of a child that was just started; if there is no descriptor for it, the child is killed."""
    with forking.gate:
        try:
            return forking.own(os.pidfd_open(pid))
        except ProcessLookupError:  # somebody's os.wait() in another thread took it, or SIGCHLD is ignored
            return reaping.ended_already()
        except OSError:
            _kill_and_reap(pid)
            raise


def _kill_and_reap(pid: int) -> None:
    try:
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _fork_by_server(spec: dict[str, Any], fds: Sequence[int], marker: str, bound: bool) -> WorkerProcess:
    try:
        directory = os.getcwdb()
    except OSError:  # removed
        directory = None
    order = launching.write_order(spec, marker=marker, cwd=directory, environ=dict(os.environb))
    with _Parcel() as parcel:
        order_read, order_write = parcel.pipe()
        outputs = [fd if _is_open(fd) else parcel.open_null() for fd in (1, 2)]
        pid, pidfd, line = server.fork_worker((order_read, *outputs, *fds), bound)
        worker = WorkerProcess(pid, reaping.ByServer(pidfd, line), marker)
        return _hand_over(worker, parcel, order_read, order_write, order)


def _spawn(spec: dict[str, Any], fds: Sequence[int], marker: str, bound: bool) -> WorkerProcess:
    with _Parcel() as parcel:
        read, write = (-1, -1) if reaping.has_pidfds() else parcel.pipe()
        order_read, order_write = parcel.pipe()
        line = lifeline.read_end() if bound else None
        order = launching.write_order(
            spec, marker=marker, fds=list(fds), lifeline=line, sentinel=None if write < 0 else write
        )
        pid = launching.launch(
            "spawned",
            order_read,
            [*([] if line is None else [line]), *fds, *([write] if write >= 0 else ())],
            "multitask-worker",
        )
        reaper: reaping.Reaper
        if write < 0:
            reaper = reaping.ByPidfd(_pidfd_of_child(pid))
        else:
            parcel.drop(write)
            reaper = reaping.ByPipe(pid, parcel.give_away(read))
        return _hand_over(WorkerProcess(pid, reaper, marker), parcel, order_read, order_write, order)


def _hand_over(worker: WorkerProcess, parcel: _Parcel, read: int, write: int, order: bytes) -> WorkerProcess:
    """Let a worker that waits for its order have it: from here on it has an owner."""
    try:
        parcel.drop(read)
        launching.send(write, order)
    except BaseException:
        worker.close()
        raise
    return worker


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _flush_streams() -> None:
    """Write out what is buffered, so that a child does not have it as well."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):  # none, closed, or nobody reads it
            pass


def _reap_late() -> None:
    for reaper in tuple(_unreaped):
        if reaper.ended():
            try:
                _unreaped.remove(reaper)
            except ValueError:  # another thread was quicker
                continue
            reaper.status()
            reaper.close()


def _close_all() -> None:
    """At the end of the program, after the pools have ended: leave no process behind, nor a fork server."""
    for reference in _living.valuerefs():
        worker = reference()
        if worker is not None:
            worker.close()
    server.stop()


atexit.register(_close_all)


def _forget() -> None:
    _living.clear()
    _unreaped.clear()


forking.in_forked_child(_forget)
