"""Pipes, listeners and managers: the names of ``multiprocessing`` for processes that talk to each other.

They are the standard library's own, so old programs run, with what is better here:

* the ends of a Pipe, and what Listener and Client return, travel to pool tasks that already run and through queues;
* functions, lambdas and objects of ``__main__`` can be sent, also to a manager;
* a manager's server needs no ``if __name__ == "__main__":``, ends with the process that started it, and leaves nothing
  on a disk or in shared memory.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import managers
from typing import Any

from multitask._engine.managing import SERIALIZER, Context
from multitask._engine.wires import Client, Connection, Listener, Pipe, abstract_address

__all__ = ["BaseManager", "Client", "Connection", "Listener", "Manager", "Pipe", "SyncManager"]

_PICKLE = "pickle"  # the standard library's default, which ours replaces: it says the same, and more


class BaseManager(managers.BaseManager):
    """A process that holds objects, and proxies for them in other processes: ``multiprocessing.managers.BaseManager``.

    Without an *address* the server is reached through a socket with a random name that is on no disk. With a *ctx* its
    process is started by that multiprocessing context.
    """

    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = _PICKLE,
        ctx: Any = None,
        **options: Any,
    ) -> None:
        if serializer == _PICKLE:
            serializer = SERIALIZER
        # get_server() and connect() want to know of no address; only a server that we start has a name made up.
        self._nameless = address is None
        context: Any = Context() if ctx is None else ctx
        super().__init__(address, authkey, serializer, context, **options)

    def start(self, initializer: Callable[..., object] | None = None, initargs: Any = ()) -> None:
        """Start the server's process, which calls *initializer* first; waits until it can be reached."""
        if self._nameless and self._state.value == managers.State.INITIAL:  # type: ignore[attr-defined]
            self._address = abstract_address()
        super().start(initializer, initargs)


class SyncManager(managers.SyncManager, BaseManager):
    """What ``Manager()`` returns: dict, list, Queue, Lock, Namespace, … in a process of their own."""


def Manager() -> SyncManager:
    """A started SyncManager; ``with Manager() as manager: …`` ends it, and so does the end of this process."""
    manager = SyncManager()
    manager.start()
    return manager
