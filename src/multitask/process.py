"""Processes that keep what they return or raise.

``Process`` is ``multiprocessing.Process`` with the same signature and semantics, and with ``result()``,
``exception()``, ``lifetime`` and ``start_method``. How one is started, and who dies when, stands in
``_engine/processes/README.md``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import util  # noqa: F401  # its exit handler must be there before ours: the last one comes first
from multiprocessing.process import BaseProcess, active_children, current_process, parent_process
from typing import TYPE_CHECKING, Any

from multitask._engine.calls import START_METHODS, check_call, check_made
from multitask._engine.workers.process import start_methods
from multitask.errors import NotSupported, TimeoutError, WorkerLost

if TYPE_CHECKING:
    from multitask._engine.processes.launch import Launched

__all__ = ["Process", "active_children", "current_process", "parent_process"]

LIFETIMES = ("joined", "bound")


class Process(BaseProcess):
    """``multiprocessing.Process``, whose result, error and end are not lost.

    *target* is called with *args* and *kwargs* in a new process once ``start()`` was called; or a subclass has a
    ``run`` of its own. What ``run`` returns is ``result()``; what it raises is printed by the process, as in the
    standard library, and is ``exception()``.

    ``start_method``: "forkserver" (the default where there is fork), "fork" or "spawn". ``__main__`` is never imported
    again: what stands there travels by value, and a script needs no ``if __name__ == "__main__":``.

    ``lifetime``: "joined", the default: the end of the script waits for it, and if the script is killed, it goes on.
    "bound", the default of a daemon: it ends with its parent, however that ends.

    Raises TypeError for *args* or *kwargs* that cannot be called with, ValueError or NotSupported for a start method
    or lifetime that is not there.
    """

    _start_method = None  # read by multiprocessing: there is no context to set in the child
    _made = False

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        start_method: str | None = None,
        lifetime: str | None = None,
    ) -> None:
        args, kwargs = check_call("Process", target, args, kwargs)
        if start_method is not None and start_method not in START_METHODS:
            raise ValueError(f"start_method must be one of {', '.join(START_METHODS)}, not {start_method!r}")
        if lifetime == "detached":
            raise NotSupported(
                "lifetime='detached' is not built yet", fix="subprocess.Popen(…, start_new_session=True)"
            )
        if lifetime is not None and lifetime not in LIFETIMES:
            raise ValueError(f"lifetime must be one of {', '.join(LIFETIMES)}, not {lifetime!r}")
        super().__init__(group, target, name, args, kwargs, daemon=daemon)
        self._method = start_method or start_methods()[0]
        self._lifetime = lifetime
        self._made = True

    @property
    def lifetime(self) -> str:
        """Whether the end of its parent waits for it ("joined") or ends it ("bound")."""
        return self._lifetime or ("bound" if self.daemon else "joined")

    def start(self) -> None:
        """Start it and return at once.

        Raises CannotTravel, which names the path in the object, when something of it cannot go to another process;
        PoolBroken when the system has no process left. AssertionError when it was started before.
        """
        super().start()

    @staticmethod
    def _Popen(process: Any) -> Launched:
        from multitask._engine.processes.launch import Launched

        return Launched(process, process._method, bound=process.lifetime == "bound")

    def run(self) -> Any:
        """What the process does: call *target* and return what it returns; for subclasses to replace."""
        if self._target:  # type: ignore[attr-defined]
            return self._target(*self._args, **self._kwargs)  # type: ignore[attr-defined]
        return None

    def terminate(self, *, grace: float | None = None) -> None:
        """SIGTERM to the process. With *grace*, to its whole process group; what of its tree is left after so many
        seconds is killed. Waits for that long at most.
        """
        if grace is None:
            super().terminate()
            return
        self._check_closed()
        launched = self._launched()
        launched.signal_group(signal.SIGTERM)
        launched.wait(grace)
        launched.kill_tree()
        launched.wait(grace)

    def result(self, timeout: float | None = None) -> Any:
        """What its ``run`` returned; raises what it raised, with the traceback there as its cause.

        Waits for the end of the process, at most *timeout* seconds, then raises multitask.TimeoutError. Raises
        WorkerLost when it was killed, or ended by ``os._exit``, before it had a result.
        """
        ok, value = self._outcome(timeout)
        if ok:
            return value
        try:
            raise value
        finally:
            del value  # it holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What ``result`` would raise, None if it would return. Waits like it."""
        ok, value = self._outcome(timeout)
        return None if ok else value

    def _outcome(self, timeout: float | None) -> tuple[bool, Any]:
        known: tuple[bool, Any] | None = self.__dict__.get("_known")
        if known is not None:
            return known
        self.join(timeout)
        code = self.exitcode
        if code is None:
            raise TimeoutError(f"{self.name} still runs after {timeout} s")
        known = self._launched().load() or (False, self._lost(code))
        self._known = known
        return known

    def _lost(self, code: int) -> WorkerLost:
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        error = WorkerLost(f"the process {self.name} {how} before it had a result")
        error.worker, error.pid, error.exitcode = self.name, self.pid, code
        return error

    def close(self) -> None:
        """Give back what it needs; its result too, unless somebody has asked for it. ValueError while it runs."""
        self._check_made()
        super().close()

    def _launched(self) -> Launched:
        launched: Launched = self._popen  # type: ignore[attr-defined]
        return launched

    def _check_closed(self) -> None:
        # The first thing that nearly every method of the base class does.
        self._check_made()
        super()._check_closed()  # type: ignore[misc]

    def _check_made(self) -> None:
        check_made(self, "Process")

    def __repr__(self) -> str:
        return super().__repr__() if self._made else f"<{type(self).__name__} without Process.__init__>"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
