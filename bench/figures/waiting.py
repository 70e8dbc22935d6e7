"""A million tasks that wait: what each costs, and whether the line's length slows the pool."""

from __future__ import annotations

import collections
import gc
import itertools
import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import processes
import work
from contenders import CONTENDERS, OURS, Contender

from figures.calls import WORKERS
from figures.figure import Figure, Goal, Report, Size, Value

_NUMBERS = itertools.count()


class Gate:
    """Keeps all workers of a pool busy until it is opened."""

    def __init__(self, pool: Contender, folder: str) -> None:
        assert pool.submit is not None
        self._pool = pool
        self._path = str(Path(folder, f"gate-{next(_NUMBERS)}"))
        os.mkfifo(self._path)
        self._held = [pool.submit(work.hold, self._path) for _ in range(WORKERS)]

    def open(self) -> None:
        """Returns when all workers have passed: a late one must still find the writer."""
        assert self._pool.result is not None
        writer = os.open(self._path, os.O_WRONLY)
        for handle in self._held:
            self._pool.result(handle)
        os.close(writer)


def steady_rate(pool: Contender, line: collections.deque[Any], calls: int) -> float:
    """Calls per second while each collected one is followed by a new one at the other end of the line.

    In this time the workers must find no more than *calls* tasks that they can run, or the rate is that of a program
    that is at work on many more: they are faster than this loop, and how far ahead of it they get is chance.
    """
    submit, result = pool.submit, pool.result
    assert submit is not None and result is not None
    fn = work.f
    begin = perf_counter()
    for i in range(calls):
        line.append(submit(fn, i))
        result(line.popleft())
    return calls / (perf_counter() - begin)


def _rate_behind(pool: Contender, folder: str, waiting: int, calls: int) -> float:
    """The steady rate with a line of *waiting*, which is emptied afterwards."""
    assert pool.submit is not None and pool.result is not None
    gate = Gate(pool, folder)
    line = collections.deque(pool.submit(work.f, i) for i in range(waiting))
    gate.open()
    rate = steady_rate(pool, line, calls)
    for handle in line:
        pool.result(handle)
    return rate


def waiting(name: str, size: Size, report: Report) -> None:
    """Memory of the whole tree per waiting task; the rate behind a short line, a long one, a short one."""
    ours = name.startswith("multitask")
    many = size["waiting" if ours else "waiting_peers"]
    calls = size["calls" if name == OURS else "calls_peers"]
    token = os.environ[processes.TOKEN]
    with tempfile.TemporaryDirectory() as folder:
        later = os.environ[work.LATER] = str(Path(folder, "later"))
        os.mkfifo(later)
        pool = CONTENDERS[name](WORKERS)
        submit, result = pool.submit, pool.result
        assert submit is not None and result is not None
        for handle in [submit(work.f, i) for i in range(5_000)]:
            result(handle)
        short = _rate_behind(pool, folder, 1_000, calls)
        gate = Gate(pool, folder)
        gc.collect()
        before = processes.tree_memory(token)
        begin = perf_counter()
        line = collections.deque(submit(work.f if i < calls else work.f_later, i) for i in range(many))
        submitted = many / (perf_counter() - begin)
        gc.collect()
        each = (processes.tree_memory(token) - before) / many
        gate.open()
        long = steady_rate(pool, line, calls)
        opened = os.open(later, os.O_RDWR)  # does not wait for a reader
        begin = perf_counter()
        for handle in line:
            result(handle)
        drained = many / (perf_counter() - begin)
        os.close(opened)
        line.clear()
        short = (short + _rate_behind(pool, folder, 1_000, calls)) / 2
    report(
        {
            "many": many,
            "bytes": each,
            "short": short,
            "long": long,
            "share": long / short,
            "submit": submitted,
            "drain": drained,
        }
    )
    pool.close()


FIGURES = (
    Figure(
        "waiting",
        "Tasks that wait while all workers are busy",
        (
            Value("many", "waiting", 0, ratio=False),
            Value("bytes", "bytes each", 0, False, goals=(Goal("value", "at most", 1024),)),
            Value("short", "calls per second behind 1,000", 0),
            Value("long", "behind all those waiting", 0, ratio=False),
            Value("share", "long / short", 2, ratio=False, goals=(Goal("value", "at least", 0.8),)),
            Value("submit", "submits per second", 0, ratio=False),
            Value("drain", "the rest, collected per second", 0, ratio=False),
        ),
        (OURS, "multitask-pipes", "mp", "ppe", "tpe"),
        waiting,
        full={"waiting": 1_000_000, "waiting_peers": 100_000, "calls": 200_000, "calls_peers": 50_000},
        quick={"waiting": 50_000, "waiting_peers": 20_000, "calls": 3_000, "calls_peers": 3_000},
        limit_seconds=300,
        most_rounds=3,
        remarks=(
            "Bytes: growth of the whole process tree, the list of handles included. Rate: a loop that submits one "
            "task and collects the oldest, so that the line keeps its length; meanwhile the workers can run as many "
            "tasks as it collects, for those behind wait for something else. The peers get 100,000; a quarter of the "
            "calls is enough for all but the first."
        ),
    ),
)
