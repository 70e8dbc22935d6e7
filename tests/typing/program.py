"""What a user writes with queues and shared memory. Checked by mypy --strict and never run."""

from __future__ import annotations

import asyncio
import ctypes
from typing import assert_type

import numpy as np
import numpy.typing as npt

from multitask import (
    Array,
    Client,
    ConnectionLost,
    Counter,
    Empty,
    Full,
    JoinableQueue,
    Listener,
    Manager,
    Pipe,
    Queue,
    RawArray,
    RawValue,
    Shared,
    ShutDown,
    SimpleQueue,
    Value,
    WrongKey,
    share,
)


def queues() -> None:
    queue: Queue = Queue(3)
    queue.put("item", timeout=0.5)
    queue.put("item", False)
    try:
        queue.get(block=True, timeout=2.0)
    except (Empty, Full, ShutDown, queue.Empty, Queue.Full):
        queue.get_nowait()
    for item in queue:
        print(item)
    assert_type(queue.put_many(range(3)), int)
    queue.get_many(3, timeout=1).sort()
    assert_type(queue.qsize() + queue.put_count, int)
    assert_type(queue.empty() or queue.full() or queue.is_shutdown, bool)
    queue.task_done()
    queue.shutdown(immediate=True)
    between_threads = Queue(0, shared=False)
    between_threads.join(timeout=1)
    JoinableQueue(maxsize=2).close()
    SimpleQueue().put(None)


async def coroutines(queue: Queue) -> None:
    await queue.aput(1, timeout=1)
    await queue.aget()
    asyncio.get_running_loop()


def machines(queue: Queue) -> None:
    with queue.serve(("127.0.0.1", 0), authkey="secret") as server:
        host, port = server.address
        try:
            remote = Queue.connect((host, port), authkey=b"secret", timeout=3)
        except WrongKey as error:
            print(error.why)
        except ConnectionLost as error:
            print(error.items, error.fix)
        else:
            assert_type(remote, Queue)


def connections() -> None:
    left, right = Pipe(duplex=False)
    right.send(left)
    with Listener(("localhost", 0), authkey=b"secret") as listener:
        Client(listener.address, authkey=b"secret").close()
    with Manager() as manager:
        manager.dict()["key"] = 1
        manager.Queue().put(1)


def memory(numbers: npt.NDArray[np.float64]) -> None:
    value = Value("i", 0)
    with value.get_lock():
        value.value += 1
    Array(ctypes.c_double, [1.0], lock=False)[0] = 2.0
    RawArray("d", 3)[0] = RawValue("d", 1.0).value
    counter = Counter(0)
    assert_type(counter.add(3), int)
    assert_type(counter.compare_and_set(3, 4), bool)
    share(numbers, writable=True).sum()
    assert_type(share({"a": 1}), Shared[dict[str, int]])
    assert_type(share({"a": 1}).value, dict[str, int])
    assert_type(share(b"abc"), memoryview)
