"""Shared memory: an array into a warm task, a counter, a value under its lock."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from time import perf_counter
from typing import Any

from figures.figure import Figure, Goal, Report, Size, Value

MIB = 1 << 20

# --- an array into a task ---------------------------------------------------------------------------------------------


def ends_of(array: Any) -> tuple[float, float]:
    """In the worker: touches the array at both ends."""
    return float(array[0]), float(array[-1])


def ends_by_name(name: str, count: int) -> tuple[float, float]:
    """In the worker: the same with a segment attached by hand."""
    import numpy

    segment = SharedMemory(name)
    array = numpy.ndarray(count, dtype=numpy.float64, buffer=segment.buf)
    found = ends_of(array)
    del array
    segment.close()
    return found


class Way:
    """One way to get an array into a warm worker: ``put`` once, then ``call`` as often as is wanted."""

    def __init__(self) -> None:
        self.put: Callable[[Any], Any] = lambda array: array
        self.call: Callable[[Any], Any]
        self.close: Callable[[], Any]


class Ours(Way):
    def __init__(self) -> None:
        super().__init__()
        multitask = importlib.import_module("multitask")
        pool = multitask.Pool(1)
        self.put = multitask.share
        self.call = lambda array: pool.apply(ends_of, (array,))
        self.close = pool.terminate


class OursPortable(Ours):
    def __init__(self) -> None:
        os.environ["MULTITASK_NATIVE"] = "0"
        super().__init__()


class Argument(Way):
    def __init__(self) -> None:
        super().__init__()
        pool = multiprocessing.Pool(1)
        self.call = lambda array: pool.apply(ends_of, (array,))
        self.close = pool.terminate


class ByHand(Way):
    def __init__(self) -> None:
        super().__init__()
        pool = multiprocessing.Pool(1)
        segments: list[SharedMemory] = []

        def put(array: Any) -> tuple[str, int]:
            import numpy

            segment = SharedMemory(create=True, size=array.nbytes)
            numpy.ndarray(array.shape, dtype=array.dtype, buffer=segment.buf)[:] = array
            segments.append(segment)
            return segment.name, len(array)

        def close() -> None:
            pool.terminate()
            for segment in segments:
                segment.close()
                segment.unlink()

        self.put, self.close = put, close
        self.call = lambda named: pool.apply(ends_by_name, named)


class Memmap(Way):
    def __init__(self) -> None:
        super().__init__()
        joblib = importlib.import_module("joblib")
        folder = tempfile.TemporaryDirectory(prefix="bench-memmap-", dir="/dev/shm")
        pool = joblib.Parallel(n_jobs=2)
        pool.__enter__()

        def put(array: Any) -> Any:
            path = os.path.join(folder.name, "array")
            joblib.dump(array, path)
            return joblib.load(path, mmap_mode="r")

        def close() -> None:
            pool.__exit__(None, None, None)
            folder.cleanup()

        self.put, self.close = put, close
        self.call = lambda array: pool([joblib.delayed(ends_of)(array)])[0]


class Ray(Way):
    def __init__(self) -> None:
        super().__init__()
        ray = importlib.import_module("ray")
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
        remote = ray.remote(ends_of)
        self.put = ray.put
        self.call = lambda reference: ray.get(remote.remote(reference))
        self.close = ray.shutdown


WAYS: dict[str, tuple[str, type[Way], str]] = {
    "multitask": ("**multitask.share(array)**", Ours, ""),
    "multitask-portable": ("multitask without its extension", OursPortable, ""),
    "mp": ("`multiprocessing`, as an argument", Argument, ""),
    "by-hand": ("`shared_memory` by hand", ByHand, ""),
    "memmap": ("joblib, memmap in /dev/shm", Memmap, "joblib"),
    "ray": ("ray.put", Ray, "ray"),
}


def into_a_task(name: str, size: Size, report: Report) -> None:
    """A call with an array that the worker has not seen, and one with an array that it has mapped."""
    import numpy

    way = WAYS[name][1]()
    small = numpy.arange(1000.0)
    for _ in range(10):
        way.call(way.put(small))
    puts, firsts, agains = [], [], []
    for number in range(size["times"]):
        array = numpy.arange(size["mebibytes"] * MIB // 8, dtype=numpy.float64)
        array[0] = number
        begin = perf_counter()
        there = way.put(array)
        put = perf_counter()
        found = way.call(there)
        first = perf_counter()
        way.call(there)
        again = perf_counter()
        assert found == (number, array[-1])
        puts.append((put - begin) * 1e3)
        firsts.append((first - put) * 1e3)
        agains.append((again - first) * 1e3)
        del array, there
    report({"put": statistics.median(puts), "first": statistics.median(firsts), "again": statistics.median(agains)})
    way.close()


# --- a counter --------------------------------------------------------------------------------------------------------


def add_to_counter(counter: Any, count: int) -> None:
    for _ in range(count):
        counter.add(1)


def add_to_value(value: Any, count: int) -> None:
    for _ in range(count):
        with value.get_lock():
            value.value += 1


COUNTERS: dict[str, tuple[str, Callable[[], Any], Callable[[Any, int], None]]] = {
    "multitask": ("**multitask.Counter**, `add(1)`", lambda: _ours("Counter", 0), add_to_counter),
    "ours-value": ("multitask.Value with its lock", lambda: _ours("Value", "q", 0), add_to_value),
    "mp": ("multiprocessing.Value with its lock", lambda: multiprocessing.Value("q", 0), add_to_value),
}


def _ours(name: str, *args: Any) -> Any:
    return getattr(importlib.import_module("multitask"), name)(*args)


def counting(name: str, size: Size, report: Report) -> None:
    """One process alone, then four at once on the same number; the sum must be right."""
    _, make, add = COUNTERS[name]
    count = size["adds"] if name == "multitask" else size["adds"] // 10
    counter = make()
    add(counter, count // 10)
    alone = []
    for _ in range(5):
        begin = perf_counter()
        add(counter, count)
        alone.append(count / (perf_counter() - begin))
    context = multiprocessing.get_context("fork")
    before = counter.value
    begin = perf_counter()
    children = [context.Process(target=add, args=(counter, count)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    together = 4 * count / (perf_counter() - begin)
    assert counter.value == before + 4 * count
    report({"alone": max(alone), "together": together})


FIGURES = (
    Figure(
        "share-array",
        "A shared array of 100 MiB into a warm task",
        (
            Value("put", "sharing it, ms", 1, False, ratio=False),
            Value("first", "the first call with it, ms", 3, False, speed=True, goals=(Goal("value", "at most", 1.0),)),
            Value("again", "the next call with it, ms", 3, False, speed=True),
        ),
        tuple(name for name, (_, _, package) in WAYS.items() if not package or importlib.util.find_spec(package)),
        into_a_task,
        full={"mebibytes": 100, "times": 7},
        quick={"mebibytes": 100, "times": 3},
        limit_seconds=120,
        remarks="The worker touches the first and the last item. Another array each time.",
        row_titles={name: title for name, (title, _, _) in WAYS.items()},
    ),
    Figure(
        "share-array-1",
        "The same with 1 MiB: the call does not depend on the size",
        (Value("first", "the first call with it, ms", 3, False, speed=True, goals=(Goal("value", "at most", 1.0),)),),
        ("multitask", "mp", "by-hand"),
        into_a_task,
        full={"mebibytes": 1, "times": 21},
        quick={"mebibytes": 1, "times": 5},
        row_titles={name: title for name, (title, _, _) in WAYS.items()},
    ),
    Figure(
        "counter",
        "Adding 1 to a number that processes share",
        (
            Value("alone", "one process, adds/s", 0, goals=(Goal("ratio", "at least", 20),)),
            Value("together", "four processes at once, adds/s", 0, goals=(Goal("ratio", "at least", 20),)),
        ),
        tuple(COUNTERS),
        counting,
        full={"adds": 2_000_000},
        quick={"adds": 300_000},
        remarks="The loop around it counts too. Four processes on two processors.",
        row_titles={name: title for name, (title, _, _) in COUNTERS.items()},
    ),
)
