"""The server process of a Manager: a worker process of ours that runs ``multiprocessing``'s server.

It never imports the script again, so no ``__main__`` guard is needed; callables and classes of ``__main__`` travel by
value. It ends with the process that started it, however that ends.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
from collections.abc import Callable, Sequence
from multiprocessing import connection, context
from multiprocessing.managers import listener_client  # type: ignore[attr-defined]
from multiprocessing.process import AuthenticationString, current_process  # type: ignore[attr-defined]
from typing import Any

from multitask._engine import envelope, family
from multitask._engine.wires import Client, Connection, Listener
from multitask._engine.workers import process

_numbers = itertools.count(1)


class Serializer(str):
    """The name under which managers and proxies find our Listener and Client, in whatever process they are read."""

    def __reduce__(self) -> Any:
        return _serializer, ()


def _serializer() -> Serializer:
    return SERIALIZER


SERIALIZER = Serializer("multitask")
listener_client[SERIALIZER] = (Listener, Client)


class Context:
    """What a manager takes for its multiprocessing context: its Process is one of ours."""

    def __init__(self) -> None:
        self.Process = ServerProcess

    def __getattr__(self, name: str) -> Any:
        return getattr(context._default_context, name)


class ServerProcess:
    """As much of ``multiprocessing.Process`` as a manager uses of the process that it starts."""

    def __init__(self, target: Callable[..., object], args: Sequence[Any]) -> None:
        self.name = "multitask-manager"
        self._identity = (next(_numbers),)
        self._call: Any = (target, tuple(args))
        self._worker: process.WorkerProcess | None = None
        self._exitcode: int | None = None
        self.pid: int | None = None

    def start(self) -> None:
        """Start the server. What cannot travel to it raises CannotTravel here."""
        target, args = self._call
        # As a copy held by the broker, the writer would keep the other end from seeing that the server is dead.
        fds = [arg.fileno() for arg in args if isinstance(arg, connection.Connection)]
        rest = tuple([_plain(arg) for arg in args])
        spec = {
            "target": f"{__name__}:main",
            "family": family.address(),
            "authkey": bytes(current_process().authkey),
            "call": envelope.seal_whole((target, rest), "the manager"),
            "writer": [at for at, arg in enumerate(args) if isinstance(arg, connection.Connection)],
        }
        methods = process.start_methods()
        self._worker = process.start_worker("forkserver" if "forkserver" in methods else "spawn", spec, fds)
        self.pid = self._worker.pid
        self._call = None
        family.serve()

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._worker is not None and self._worker.alive()

    @property
    def exitcode(self) -> int | None:
        """As of multiprocessing.Process."""
        if self._worker is not None and not self._worker.alive():
            self.join()
        return self._exitcode

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most *timeout* seconds."""
        worker = self._worker
        if worker is None:
            return
        poll = select.poll()
        poll.register(worker.fileno(), select.POLLIN)
        if poll.poll(None if timeout is None else max(0.0, timeout) * 1000):
            worker.kill_tree()
            self._exitcode = worker.exitcode()
            worker.close()
            self._worker = None

    def terminate(self) -> None:
        """Ask it to end, by SIGTERM."""
        if self.is_alive() and self.pid is not None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and what it has started."""
        if self._worker is not None:
            self._worker.kill_tree()


def _plain(arg: Any) -> Any:
    if isinstance(arg, connection.Connection):
        return None
    return bytes(arg) if isinstance(arg, AuthenticationString) else arg  # the server makes one of it again


def main(spec: dict[str, Any], fds: Sequence[int], inherited: Any) -> int:
    """In the server process."""
    from multitask._engine.byvalue.child import Decoder

    family.join(spec["family"])
    current_process().authkey = spec["authkey"]
    Decoder(0).install()  # a __main__ of its own
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    call: Any = envelope.open_sealed(spec["call"])
    target, given = call[0], list(call[1])
    for at, fd in zip(spec["writer"], fds, strict=True):
        given[at] = Connection(fd, readable=False)
    target(*given)
    return 0
