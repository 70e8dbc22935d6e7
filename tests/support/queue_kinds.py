"""The flavours of Queue, for one suite over all of them; each test asks for ``flavour`` and makes its queues by it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multitask import Queue
from multitask._engine.queueing import choice

SHARED = ("native", "file")
LOCAL = ("local-native", "local-plain")
REMOTE = ("remote", "remote-objects")
FLAVOURS = SHARED + LOCAL + REMOTE
METHODS = ("fork", "forkserver", "spawn")
HANG_SECONDS = 60.0  # only detects a hang


class Flavour:
    """Makes queues of one kind."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shared = name not in LOCAL
        self.kind = _kind(name)
        self.served: list[Any] = []

    def queue(self, maxsize: int | None = 0) -> Queue:
        if self.name not in REMOTE:
            return self.kind(maxsize)
        server = self.kind(maxsize).serve(authkey="key of the tests")
        self.served.append(server)
        client = Queue.connect(server.address, authkey=b"key of the tests")
        self.served.append(client)
        return client

    def close(self) -> None:
        while self.served:
            end = self.served.pop()
            end.close() if hasattr(end, "address") else end.disconnect()


def _kind(name: str) -> type[Queue]:
    if name == "native":
        if not choice.native():
            pytest.skip("the native queue is not built, or MULTITASK_NATIVE=0")
        from multitask._engine.queueing.memory import NativeQueue

        return NativeQueue
    if name == "remote" and choice.native():
        return _kind("native")
    if name in ("file", "remote"):
        from multitask._engine.queueing.files import FileQueue

        return FileQueue
    from multitask._engine.queueing import local

    if name == "remote-objects":
        return local.LocalQueue
    if name == "local-plain":
        return local.PlainLocalQueue
    if not hasattr(local, "NativeLocalQueue"):
        pytest.skip("the native queue between threads is not built, or MULTITASK_NATIVE=0")
    return local.NativeLocalQueue


class Call:
    """A call in a thread of its own: ``result()`` gives what it returned or raises what it raised."""

    def __init__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        self._begun = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(call, args, kwargs))
        self.thread.start()
        self._begun.wait()

    def _run(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._begun.set()
        try:
            self._value = call(*args, **kwargs)
        except BaseException as error:
            self._error = error

    def asleep(self) -> Call:
        """Wait until the thread sleeps in the kernel, as well as one can see that from outside."""
        stat = Path(f"/proc/self/task/{self.thread.native_id}/stat")
        seen = 0
        while seen < 5 and self.thread.is_alive():
            seen = seen + 1 if stat.read_text().rpartition(")")[2].split()[0] == "S" else 0
            time.sleep(0.001)
        return self

    def result(self) -> Any:
        self.thread.join(HANG_SECONDS)
        assert not self.thread.is_alive(), "the call hangs"
        if self._error is not None:
            raise self._error
        return self._value
