"""A program: queues made, used and dropped again and again while their users are killed; prints what it owned.

python queue_cycles.py FLAVOUR CYCLES       after the first and after the last cycle
python queue_cycles.py FLAVOUR COUNT drop   queues made and dropped, under a limit of 1,024 open files
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from multitask import Queue
from multitask._engine import family

GRACE_SECONDS = 20


def kind(flavour: str) -> type[Queue]:
    if flavour == "file":
        from multitask._engine.queueing.files import FileQueue

        return FileQueue
    from multitask._engine.queueing.memory import NativeQueue

    return NativeQueue


def owned() -> dict[str, int]:
    """What this process owns, once the family's thread has heard of those that were killed: nobody waits for it."""
    gc.collect()
    deadline = time.monotonic() + GRACE_SECONDS
    while _remembers_someone() and time.monotonic() < deadline:
        time.sleep(0.001)
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mappings": sum("deleted" in line for line in Path("/proc/self/maps").read_text().splitlines()),
        "named": len([name for name in names if name.startswith("multitask")]),
        "children": sum(len(task.read_text().split()) for task in Path("/proc/self/task").glob("*/children")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def _remembers_someone() -> bool:
    broker = family._broker
    return broker is not None and bool(broker._lines or broker._ending or len(broker.entries))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def cycle(number: int, make: type[Queue]) -> None:
    """One child is handed a queue and fills it, another has inherited it and empties it; both are killed at work."""
    carrier = make()
    pids = [child(lambda: fill(carrier.get()))]
    q = make(50)
    carrier.put(q)
    pids.append(child(lambda: empty(q)))
    while q.got_count < 20 + number % 30:
        q.wait_readable(0.01)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)
    while not q.empty():
        q.get_many(timeout=10)
    q.put("still at work", timeout=10)
    q.shutdown(immediate=True)


def child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def fill(q: Queue) -> None:
    while True:
        q.put(b"x" * 100)


def empty(q: Queue) -> None:
    while True:
        q.get()


def main() -> None:
    make, count = kind(sys.argv[1]), int(sys.argv[2])
    if sys.argv[3:] == ["drop"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        for _ in range(1000):
            make()
        before = owned() | {"resident": 0}
        at_first = resident()
        for number in range(count):
            q = make()
            if number % 10 == 0:
                q.put(number)
        del q
        print(json.dumps([before, owned() | {"resident": max(0, resident() - at_first - (4 << 20))}]))
        return
    cycle(0, make)
    cycle(1, make)
    first = owned()
    for number in range(count):
        cycle(number, make)
    print(json.dumps([first, owned()]))


main()
