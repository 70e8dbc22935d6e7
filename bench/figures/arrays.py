"""A 100 MiB array to a task and a 100 MiB array back."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from time import perf_counter
from typing import Any

import processes
import work
from contenders import CONTENDERS, OURS, PROCESS_PEERS, installed

from figures.calls import WORKERS
from figures.figure import Figure, Goal, Report, Size, Value

MIB = 1 << 20
HEAVY = ("ray", "dask")


def _by_hand(names: tuple[str, str, int, str]) -> None:
    """In the worker: read the one segment, write the other."""
    import numpy

    source, target, count, function = names
    inward, outward = SharedMemory(source), SharedMemory(target)
    array = numpy.ndarray(count, dtype=numpy.float64, buffer=inward.buf)
    there = numpy.ndarray(count, dtype=numpy.float64, buffer=outward.buf)
    there[:] = getattr(work, function)(array)
    del array, there
    inward.close()
    outward.close()


def _shared_memory_by_hand() -> tuple[Callable[[Any, Any], Any], Callable[[], None]]:
    """What a careful user writes with the stdlib: two new segments per call, unlinked after it."""
    import multiprocessing

    import numpy

    pool = multiprocessing.Pool(WORKERS)
    kept: list[SharedMemory] = []

    def call(fn: Any, array: Any) -> Any:
        kept.clear()
        inward, outward = SharedMemory(create=True, size=array.nbytes), SharedMemory(create=True, size=array.nbytes)
        numpy.ndarray(array.shape, dtype=array.dtype, buffer=inward.buf)[:] = array
        pool.apply(_by_hand, ((inward.name, outward.name, len(array), fn.__name__),))
        inward.close()
        inward.unlink()
        outward.unlink()
        kept.append(outward)
        return numpy.ndarray(array.shape, dtype=array.dtype, buffer=outward.buf)

    return call, pool.terminate


def _caller(name: str) -> tuple[Callable[[Any, Any], Any], Callable[[], None]]:
    if name == "by-hand":
        return _shared_memory_by_hand()
    pool = CONTENDERS[name](WORKERS)
    assert pool.call is not None
    return pool.call, pool.close


def there_and_back(name: str, size: Size, report: Report) -> None:
    """The same array back, and a new one back; every page is read once at both ends."""
    import numpy

    call, close = _caller(name)
    count = size["mebibytes"] * MIB // 8
    array = numpy.arange(count, dtype=numpy.float64)
    values: dict[str, float] = {}
    for _ in range(WORKERS * 3):
        call(work.echo, array[:1000])
    token = os.environ[processes.TOKEN]
    before = processes.tree_use(token)

    def trip(fn: Callable[[Any], Any], number: int, plus: float) -> float:
        array[0] = number  # another content each time: nothing can be remembered
        begin = perf_counter()
        back = call(fn, array)
        back[:: work.TOUCH].sum()
        seconds = perf_counter() - begin
        assert back[0] == number + plus and back[-1] == count - 1 + plus and len(back) == count
        return seconds * 1e3

    for key, fn, plus in (("echo", work.echo, 0.0), ("remade", work.remade, 1.0)):
        trip(fn, 0, plus)
        values[key] = statistics.median(trip(fn, i, plus) for i in range(1, 1 + size["trips"]))
    with processes.Peak(token, before) as peak:
        trip(work.remade, 77, 1.0)
    values["peak"] = peak.bytes / MIB
    report(values)
    close()


FIGURES = (
    Figure(
        "array",
        "A 100 MiB array of NumPy to a task and a 100 MiB array back",
        (
            Value(
                "echo", "the same array back, ms", 0, False, speed=True,
                goals=(Goal("ratio", "at least", 6), Goal("place", "first")),
            ),
            Value(
                "remade", "a new array back (`a + 1.0`), ms", 0, False, speed=True,
                goals=(Goal("ratio", "at least", 6), Goal("place", "first")),
            ),
            Value("peak", "peak memory beyond the array and the idle pool, MiB", 0, False, ratio=False),
        ),
        (OURS, "multitask-pipes", "mp", *PROCESS_PEERS, "by-hand", *(name for name in HEAVY if installed(name))),
        there_and_back,
        full={"mebibytes": 100, "trips": 3},
        quick={"mebibytes": 100, "trips": 1},
        limit_seconds=180,
        remarks=(
            "Every page is read once in the task and once by the caller, the content differs in each call. "
            "Memory: the anonymous pages of the whole tree and the machine's shared memory during one more call, "
            "beyond what was in use before the first; another process looks every 5 ms."
        ),
        row_titles={"by-hand": "`shared_memory` by hand"},
    ),
)  # fmt: skip
