"""Every queue that is measured, behind one small interface; each is imported when it is made.

A line is made before its processes are forked; then each process asks for its own end. What an end gives is the bare
method of the library wherever that is possible, so that no call of ours is measured along.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import tempfile
from collections.abc import Callable
from typing import Any

OURS = "multitask"
Put = Callable[[Any], Any]
Get = Callable[[], Any]


def _nothing() -> None:
    pass


class Line:
    """From many producers to one consumer."""

    title = ""
    package = "python"
    slow = 1  # a line that is so many times slower moves so many times fewer messages

    def producer(self) -> tuple[Put, Callable[[], None]]:
        """In a producer: how it puts, and what it calls when it is through."""
        raise NotImplementedError

    def consumer(self) -> Get:
        """In the consumer."""
        raise NotImplementedError

    # Those that can move many at once have both; see figures/queues.py.
    put_many: Callable[[list[Any]], Any] | None = None
    get_many: Callable[[], list[Any]] | None = None


class Ours(Line):
    title = "**multitask.Queue**"
    package = OURS

    def __init__(self) -> None:
        self.queue = self.made()
        self.put_many = self.queue.put_many
        self.get_many = self.queue.get_many

    def made(self) -> Any:
        from multitask import Queue

        return Queue()

    def producer(self) -> tuple[Put, Callable[[], None]]:
        return self.queue.put, _nothing

    def consumer(self) -> Get:
        return self.queue.get  # type: ignore[no-any-return]


class OursOnAFile(Ours):
    title = "multitask.Queue without its extension"
    slow = 5

    def made(self) -> Any:
        from multitask._engine.queueing.files import FileQueue

        return FileQueue()


class OursWithoutSpin(Ours):
    """As on a machine with one CPU."""

    def made(self) -> Any:
        from multitask._native import ring

        ring._spin(0)
        return super().made()


class Stdlib(Line):
    title = "multiprocessing.Queue"

    def __init__(self) -> None:
        import multiprocessing

        self.queue = multiprocessing.get_context("fork").Queue()

    def producer(self) -> tuple[Put, Callable[[], None]]:
        def through() -> None:
            self.queue.close()
            self.queue.join_thread()

        return self.queue.put, through

    def consumer(self) -> Get:
        return self.queue.get


class StdlibSimple(Line):
    title = "multiprocessing.SimpleQueue"

    def __init__(self) -> None:
        import multiprocessing

        self.queue = multiprocessing.get_context("fork").SimpleQueue()

    def producer(self) -> tuple[Put, Callable[[], None]]:
        return self.queue.put, _nothing

    def consumer(self) -> Get:
        return self.queue.get


class StdlibPipe(Line):
    """For one producer only: two that write at once tear each other's messages."""

    title = "multiprocessing.Pipe"

    def __init__(self) -> None:
        import multiprocessing

        self.reader, self.writer = multiprocessing.get_context("fork").Pipe(duplex=False)

    def producer(self) -> tuple[Put, Callable[[], None]]:
        return self.writer.send, _nothing

    def consumer(self) -> Get:
        return self.reader.recv


class StdlibManager(Line):
    title = "multiprocessing.Manager().Queue"
    slow = 10

    def __init__(self) -> None:
        import multiprocessing

        self.manager = multiprocessing.get_context("fork").Manager()
        self.queue = self.manager.Queue()

    def producer(self) -> tuple[Put, Callable[[], None]]:
        return self.queue.put, _nothing

    def consumer(self) -> Get:
        return self.queue.get


class FasterFifo(Line):
    title = "faster-fifo"
    package = "faster_fifo"

    def __init__(self) -> None:
        import faster_fifo

        self.queue = faster_fifo.Queue(max_size_bytes=16 << 20)
        self.put_many = lambda items: self.queue.put_many(items, timeout=1e6)
        self.get_many = lambda: self.queue.get_many(timeout=1e6, max_messages_to_get=10_000)

    def producer(self) -> tuple[Put, Callable[[], None]]:
        put = self.queue.put
        return lambda item: put(item, timeout=1e6), _nothing

    def consumer(self) -> Get:
        get = self.queue.get
        return lambda: get(timeout=1e6)


class Zmq(Line):
    """PUSH and PULL over an ipc socket, without a limit on what is under way."""

    title = "pyzmq over ipc, pickled"
    package = "zmq"

    def __init__(self) -> None:
        self.address = "ipc://" + os.path.join(tempfile.mkdtemp(prefix="multitask-bench-"), "line")

    def _socket(self, kind: str) -> Any:
        import zmq

        socket = zmq.Context().socket(getattr(zmq, kind))
        socket.set_hwm(0)
        return socket

    def producer(self) -> tuple[Put, Callable[[], None]]:
        socket = self._socket("PUSH")
        socket.connect(self.address)

        def through() -> None:
            socket.close(linger=-1)
            socket.context.term()

        return self.put_on(socket), through

    def consumer(self) -> Get:
        self.socket = self._socket("PULL")
        self.socket.bind(self.address)
        return self.get_from(self.socket)

    def put_on(self, socket: Any) -> Put:
        return lambda item: socket.send(pickle.dumps(item, 5))

    def get_from(self, socket: Any) -> Get:
        return lambda: pickle.loads(socket.recv())


class ZmqRaw(Zmq):
    """Bytes alone; an int goes as its eight bytes."""

    title = "pyzmq over ipc, raw bytes"

    def put_on(self, socket: Any) -> Put:
        send = socket.send
        return lambda item: send(item if type(item) is bytes else item.to_bytes(8, "little"))

    def get_from(self, socket: Any) -> Get:
        receive = socket.recv

        def get() -> Any:
            data = receive()
            return int.from_bytes(data, "little") if len(data) == 8 else data

        return get


class OursBetweenThreads(Ours):
    title = "**multitask.Queue(shared=False)**"

    def made(self) -> Any:
        from multitask import Queue

        return Queue(shared=False)


class OursInPython(Ours):
    title = "multitask.Queue(shared=False) without its extension"

    def made(self) -> Any:
        from multitask._engine.queueing.local import PlainLocalQueue

        return PlainLocalQueue()


class StdlibThreads(Line):
    title = "queue.Queue"

    def __init__(self) -> None:
        import queue

        self.queue: Any = queue.Queue()

    def producer(self) -> tuple[Put, Callable[[], None]]:
        return self.queue.put, _nothing

    def consumer(self) -> Get:
        return self.queue.get  # type: ignore[no-any-return]


class StdlibThreadsSimple(StdlibThreads):
    title = "queue.SimpleQueue"

    def __init__(self) -> None:
        import queue

        self.queue = queue.SimpleQueue()


BETWEEN_PROCESSES: dict[str, type[Line]] = {
    OURS: Ours,
    "multitask-file": OursOnAFile,
    "mp": Stdlib,
    "mp-simple": StdlibSimple,
    "mp-pipe": StdlibPipe,
    "manager": StdlibManager,
    "faster-fifo": FasterFifo,
    "zmq": Zmq,
    "zmq-raw": ZmqRaw,
}
BETWEEN_THREADS: dict[str, type[Line]] = {
    OURS: OursBetweenThreads,
    "multitask-python": OursInPython,
    "queue": StdlibThreads,
    "queue-simple": StdlibThreadsSimple,
}

PEERS = ("faster-fifo", "zmq", "zmq-raw")  # the others come with Python


def installed(name: str) -> bool:
    """Whether the package of this contender can be imported."""
    line = BETWEEN_PROCESSES.get(name) or BETWEEN_THREADS[name]
    return line.package in ("python", OURS) or importlib.util.find_spec(line.package) is not None
