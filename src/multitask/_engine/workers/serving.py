"""The fork server: a small, single-threaded process that forks workers out of itself.

It reads nothing but descriptors and one-letter messages: the order for a worker is read by the worker. It has
no state but the lines of its workers. It never reaps a worker before it is told to, so that the number of the
worker and of its group stay taken until the owner has killed what is left of the group; orphans that it adopts
are reaped at once. It ends when its parent does, and takes all its descendants along: what a worker started comes to
it when the worker dies.
"""

from __future__ import annotations

import _socket as socket  # see messages.py
import array
import gc
import importlib
import marshal
import os
import select
import signal
import sys
import time
from collections.abc import Sequence

from multitask._engine.workers import entry, forking, tree
from multitask._engine.workers.messages import (
    ANSWER,
    ENDED,
    FREE,
    MOST_DESCRIPTORS,
    REAP,
    RUNNING,
    UNKNOWN,
    receive,
)
from multitask._typing import Any, NoReturn

# Loaded once here instead of in each worker. Nothing of the user's, and nothing that starts threads (NumPy does).
_FIRST = ("multitask._native", entry.DEFAULT_TARGET.partition(":")[0], "multitask._engine.byvalue.report")
# The first workers are waited for, and often need none of these: loaded when nobody waits, for the workers to come.
_LATER = ("multiprocessing", "typing", "socket", "concurrent.futures")
END_SECONDS = 5  # for what is left when the parent is dead
QUIET_SECONDS = 0.2  # without a request: nobody waits
_FIXED = 4  # the line, the order, descriptors 1 and 2 come before those for the worker


def main(order: dict[str, Any]) -> NoReturn:
    """Serve until the parent is gone."""
    sys.argv[:] = ["multitask-fork-server"]
    # Not to be killed but woken when the parent dies, even if somebody stopped us: there is something left to do.
    entry.isolate(os.dup(order["lifeline"]), number=signal.SIGCONT)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # whoever waits for the end of our parent's output must not wait for us
    os.close(nowhere)
    for fd in (order["lifeline"], order["requests"]):
        os.set_inheritable(fd, False)
    for module in _FIRST:
        _load(module)
    gc.freeze()
    gc.enable()
    Serving(socket.socket(fileno=order["requests"]), order["lifeline"]).run()


def _load(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError:  # the worker that needs it will say so
        pass


def _end_with_parent(free: set[int]) -> NoReturn:
    """Kill everything below this process but the *free* and what is below them, and end.

    The kernel has killed the workers' groups, or is about to. What had left them by setsid hangs on its worker, and on
    this process when the worker is dead, for both adopt orphans: so there is always a tree to walk.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(END_SECONDS)  # a process of another user, which may not be killed, is not waited for
    try:
        while True:
            tree.kill_below(os.getpid(), free)
            if free.issuperset(tree.children(os.getpid())):
                os._exit(0)
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    except ChildProcessError:  # no child is left
        os._exit(0)


class Serving:
    """Owner of everything here: the one thread there is."""

    def __init__(self, requests: socket.socket, lifeline: int) -> None:
        self._requests = requests
        requests.settimeout(None)
        self._lifeline = lifeline
        self._lines: dict[int, tuple[socket.socket, int]] = {}  # line's descriptor -> (line, pid)
        self._doomed: set[int] = set()  # killed because nobody wants them any more; to be reaped
        self._free: set[int] = set()  # processes that outlive the parent
        self._bell, self._ring = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._ring, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._ring, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(requests, select.POLLIN)
        self._poll.register(self._bell, select.POLLIN)
        self._poll.register(lifeline, 0)

    def run(self) -> NoReturn:
        later = list(_LATER)
        while self._requests.fileno() >= 0 or self._lines:
            ready = self._poll.poll(QUIET_SECONDS * 1000 if later else None)
            if not ready:
                self._load_in_a_quiet_moment(later)
            for fd, _ in ready:
                if fd == self._lifeline:
                    _end_with_parent(self._free)
                elif fd == self._bell:
                    self._reap_strays()
                elif fd == self._requests.fileno():
                    self._take_request()
                elif fd in self._lines:
                    self._listen(fd)
        _end_with_parent(self._free)

    def _load_in_a_quiet_moment(self, later: list[str]) -> None:
        """Load what is left, one module after the other, until somebody wants something."""
        while later and not self._poll.poll(0):
            _load(later.pop(0))
        if not later:
            gc.unfreeze()
            gc.collect()
            gc.freeze()

    def _take_request(self) -> None:
        try:
            content, rights = receive(self._requests, 1, MOST_DESCRIPTORS + _FIXED)
        except OSError:
            content, rights = b"", []
        if not content:  # the parent gave us up; what still runs is served to its end
            self._poll.unregister(self._requests)
            self._requests.close()
            return
        self._start(rights, bound=content != FREE)

    def _start(self, rights: Sequence[int], bound: bool) -> None:
        if len(rights) < _FIXED:  # our table of descriptors is full: the parent sees its line close
            for fd in rights:
                os.close(fd)
            return
        line = socket.socket(fileno=rights[0])
        line.settimeout(None)
        try:
            pid = forking.fork()
        except OSError as error:
            _tell(line, 0, error.errno or 1)
            pid = -1
        if pid == 0:
            try:
                self._become_worker(line, rights[1:], bound)
            finally:
                os._exit(1)
        for fd in rights[1:]:
            os.close(fd)
        if pid > 0:
            if not bound:
                self._free.add(pid)
            self._announce(line, pid)
        else:
            line.close()

    def _announce(self, line: socket.socket, pid: int) -> None:
        try:
            os.setpgid(pid, pid)
        except OSError:  # it did so itself, or is dead
            pass
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            _tell(line, 0, error.errno or 1)
            line.close()
            self._doom(pid)
            return
        _tell(line, pid, 0, pidfd)
        os.close(pidfd)
        self._lines[line.fileno()] = (line, pid)
        self._poll.register(line, select.POLLIN)

    def _listen(self, fd: int) -> None:
        """A line has the wish to have its worker reaped, or its own end, which dooms a worker that still runs."""
        line, pid = self._lines[fd]
        try:
            wish = line.recv(1)
        except OSError:
            wish = b""
        if wish == REAP:
            state, status = _status(pid)
            _tell(line, state, status)
            if state == RUNNING:
                return
            self._free.discard(pid)
        elif pid not in self._free:
            self._doom(pid)
        self._poll.unregister(fd)
        del self._lines[fd]
        line.close()

    def _doom(self, pid: int) -> None:
        for kill in (os.killpg, os.kill):
            try:
                kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if _status(pid)[0] == RUNNING:
            self._doomed.add(pid)

    def _reap_strays(self) -> None:
        """Something ended. Reap it unless it is a worker whose owner has not asked for it."""
        try:
            while os.read(self._bell, 4096):
                pass
        except BlockingIOError:
            pass
        self._doomed = {pid for pid in self._doomed if _status(pid)[0] == RUNNING}
        workers = {pid for _, pid in self._lines.values()}
        for pid in tree.children(os.getpid()):
            if pid not in workers and pid not in self._doomed and _status(pid)[0] != RUNNING:
                self._free.discard(pid)

    def _become_worker(self, own_line: socket.socket, rights: Sequence[int], bound: bool) -> NoReturn:
        signal.set_wakeup_fd(-1)
        for line in (own_line, self._requests, *(line for line, _ in self._lines.values())):
            line.close()
        os.close(self._bell)
        os.close(self._ring)
        order_fd, out, err, *fds = rights
        for fd, number in ((out, 1), (err, 2)):
            os.dup2(fd, number, inheritable=True)
            os.close(fd)
        if not bound:
            os.close(self._lifeline)
        entry.isolate(self._lifeline if bound else None)
        try:
            with open(order_fd, "rb") as source:
                order = marshal.load(source)
        except EOFError:  # the one who asked for a worker gave up before he had it
            os._exit(1)
        put_in_place(order)
        entry.run(order["spec"], fds, None)


def put_in_place(order: dict[str, Any]) -> None:
    """Give the worker what its parent had when it asked: path, arguments, directory, environment."""
    sys.path[:] = order["path"]
    sys.argv[:] = order["argv"]
    importlib.invalidate_caches()
    if order["cwd"] is not None:
        try:
            os.chdir(order["cwd"])
        except OSError:  # removed meanwhile: the parent could not go there either
            pass
    wanted: dict[bytes, bytes] = order["environ"]
    present = os.environb
    for name in [name for name in present if name not in wanted]:
        del present[name]
    for name, value in wanted.items():
        if present.get(name) != value:
            present[name] = value
    time.tzset()
    entry.mark(order["marker"])


def _tell(line: socket.socket, first: int, second: int, pidfd: int = -1) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))] if pidfd >= 0 else []
    try:
        line.sendmsg([ANSWER.pack(first, second)], rights, socket.MSG_NOSIGNAL)
    except OSError:  # nobody listens: the end of the line is handled when it is read
        pass


def _status(pid: int) -> tuple[int, int]:
    """Reap a child if it has ended: (ENDED, exit code), (RUNNING, 0) or (UNKNOWN, 0)."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return UNKNOWN, 0
    return (ENDED, os.waitstatus_to_exitcode(status)) if found else (RUNNING, 0)
