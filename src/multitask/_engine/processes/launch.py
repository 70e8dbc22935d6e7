"""Starting a user's process, seeing its end, ending it.

``Launched`` is what ``multiprocessing.process.BaseProcess`` keeps as its ``_popen``. Any thread of the process that
started it may use it.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from multiprocessing import context
from multiprocessing import process as theirs
from typing import Any

from multitask._engine import family, patience
from multitask._engine.processes import child, mailbox
from multitask._engine.processes.leaving import Leaving
from multitask._engine.wire import Encoder, Known, Parcel, as_bytes
from multitask._engine.workers import forking, lifeline, reaping
from multitask._engine.workers.process import WorkerProcess, start_worker

TARGET = "multitask._engine.processes.child:main"
SMALL_BYTES = 64 * 1024  # an answer that is taken as soon as its process has ended: the file goes
UNKNOWN_CODE = 255  # somebody else's os.wait() took the status: multiprocessing's answer

_encoder: Encoder | None = None  # of all processes that are not forked: what they have in common is written once
_lock = threading.RLock()


def _shared_encoder() -> Encoder:
    global _encoder
    with _lock:
        if _encoder is None:
            _encoder = Encoder()
        return _encoder


def _forget() -> None:
    global _encoder, _lock
    _encoder, _lock = None, threading.RLock()


forking.in_forked_child(_forget)


class Launched:
    """One process that was started."""

    def __init__(self, process: Any, method: str, *, bound: bool) -> None:
        self.returncode: int | None = None
        self._owner = os.getpid()
        self._lock = threading.RLock()  # a signal handler may ask while its thread does
        self._needs: object = None
        self._answer: tuple[int, list[memoryview]] | None = None
        self._box = mailbox.make()
        try:
            self._worker = self._start(process, method, bound)
        except BaseException:
            self._drop_box()
            raise
        family.serve()  # it may lend and borrow; not before this point, so that no start waits for it
        self.pid = self._worker.pid
        self.sentinel = self._worker.fileno()
        self._leaving: Leaving | None = Leaving(self, process.name, bound=bound)  # while it runs

    def _start(self, process: Any, method: str, bound: bool) -> WorkerProcess:
        inherited = None
        if method == "fork":
            self._encoder = Encoder(snapshot=dict(sys.modules["__main__"].__dict__))
            inherited = child.Inherited(self._encoder.definitions.snapshot, process)
        else:
            self._encoder = _shared_encoder()
            self._write(process)
        spec = {
            "target": TARGET,
            "space": self._encoder.space,
            "family": family.address(),
            "authkey": bytes(theirs.current_process().authkey),
        }
        return start_worker(method, spec, (self._box, lifeline.read_end()), inherited, bound=bound)

    def _write(self, process: Any) -> None:
        before = context.get_spawning_popen()
        context.set_spawning_popen(self)  # type: ignore[arg-type]  # what asks for it may be pickled
        try:
            parcel, needs = self._encoder.dump(process)
            sent = [(number, name, as_bytes(content)) for number, name, content in Known().missing(needs)]
            head = pickle.dumps((sent, bytes(parcel.data)), pickle.HIGHEST_PROTOCOL)
        finally:
            context.set_spawning_popen(before)
        self._needs = needs  # while they are held, what was lent for it may be borrowed
        mailbox.write(self._box, mailbox.CALL, (head, *parcel.buffers))

    # --- the end ----------------------------------------------------------------------------------------------------

    def poll(self, flag: int = 0) -> int | None:
        """The exit code, -N after signal N; None while it runs. Never blocks."""
        with self._lock:
            if self.returncode is None and not self._worker.alive():
                code = self._worker.exitcode()
                self.returncode = UNKNOWN_CODE if code is None else code
                leaving, self._leaving = self._leaving, None
                if leaving is not None:
                    leaving.forget()
                self._needs = None
                self._encoder.take_dead()
                if mailbox.size(self._box) <= SMALL_BYTES:
                    self._take()
            return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code; None when it still runs after *timeout* seconds. Ctrl-C is heard."""
        if self.returncode is None and not patience.often(lambda left: reaping.wait(self.sentinel, left), timeout):
            return None
        return self.poll()

    def load(self) -> tuple[bool, Any] | None:
        """(True, result) or (False, error); None when it left neither. Runs code of the user's."""
        with self._lock:
            state, parts = self._take()
        if state not in (mailbox.RESULT, mailbox.ERROR):
            return None
        parcel = Parcel(bytes(parts[0]), tuple(parts[1:]))
        if state == mailbox.ERROR:
            return False, self._encoder.load_error(parcel)
        try:
            return True, self._encoder.load(parcel)
        except Exception as error:  # it cannot be rebuilt here
            return False, error

    def _take(self) -> tuple[int, list[memoryview]]:
        if self._answer is None:
            self._answer = mailbox.read(self._box)
            self._drop_box()
        return self._answer

    def _drop_box(self) -> None:
        box, self._box = self._box, -1
        if box >= 0:
            forking.disown_soon(box)

    # --- ending it --------------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, to the process alone."""
        self._send(getattr(signal, "SIGKILL", signal.SIGTERM))

    def _send(self, number: int) -> None:
        with self._lock:
            if self.returncode is None and self._worker.alive():
                os.kill(self.pid, number)  # not reaped, so the number is still its own

    def signal_group(self, number: int) -> None:
        """*number* to it and all that is in its process group."""
        with self._lock:
            if self.returncode is None and self._worker.alive():
                os.killpg(self.pid, number)

    def kill_tree(self) -> list[int]:
        """SIGKILL to it and everything below it; what could not be ended."""
        return self._worker.kill_tree()

    def close(self) -> None:
        """Give the descriptors back. It has ended."""
        self._worker.close()
        with self._lock:
            self._drop_box()

    def __del__(self) -> None:
        if getattr(self, "_box", -1) >= 0 and self._owner == os.getpid():  # in a forked child it is closed already
            self._drop_box()
