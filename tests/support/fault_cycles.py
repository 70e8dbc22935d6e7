"""A program: makes and kills pools again and again, and prints what it owned after the first and after the last.

python fault_cycles.py METHOD CHANNEL CYCLES
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import multitask._native as native

if sys.argv[2] == "pipe":
    native.available = False

from multitask import Pool  # noqa: E402  (after the choice of the channel)

PATIENCE_SECONDS = 3.0  # for what is on its way out


def children() -> int:
    return sum(len(task.read_text().split()) for task in Path("/proc/self/task").glob("*/children"))


def mappings() -> int:
    """Memory maps of the lanes and segments; the allocator's own come and go."""
    return sum("memfd:" in line or "/dev/shm/" in line for line in Path("/proc/self/maps").read_text().splitlines())


def owned() -> dict[str, int]:
    gc.collect()
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mappings": mappings(),
        "semaphores": sum(name.startswith("sem.") for name in names),
        "children": children(),
        "threads": len(os.listdir("/proc/self/task")),
    }


def settled(compare: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """What is owned, once what is on its way out has gone."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not compare(found := owned()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def cycle(number: int, method: str) -> None:
    """Make a pool, use it, end it: closed, terminated, its worker killed at work, killed at once, left on an error."""
    pool = Pool(1, start_method=method)
    way = number % 5
    if way == 4:
        pass  # before the worker is ready
    elif pool.submit(len, "ab").result(60) != 2:
        raise SystemExit("a wrong result")
    if way == 2:
        task = pool.submit(time.sleep, 1000)
        pid = next(iter(pool._engine._supervisor._staff.hands.values())).worker.pid  # type: ignore[union-attr]
        os.kill(pid, signal.SIGKILL)
        if not task.cancel():
            task.exception()  # its death was noticed first
    if way == 0:
        pool.close()
    elif way == 3:
        try:
            with pool:
                pool.submit(time.sleep, 1000)
                raise KeyError
        except KeyError:
            return
    else:
        pool.terminate()
    pool.join()


def main() -> None:
    method, cycles = sys.argv[1], int(sys.argv[3])
    cycle(0, method)
    first = settled(lambda found: found["threads"] == 1)
    for number in range(1, cycles + 1):
        cycle(number, method)
    last = settled(lambda found: all(found[name] <= first[name] for name in first))
    print(json.dumps([first, last]))


main()
