"""Calls that compute for 1 ms: how much of two processors reaches the user's code."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from time import perf_counter
from typing import Any

import work
from contenders import CONTENDERS, OURS, PROCESS_PEERS

from figures.calls import WARM_UP, WORKERS
from figures.figure import Figure, Goal, Report, Size, Value

CALL_SECONDS = 0.001


def _share(fn: Callable[[Any], object], x: object, calls: int, start: Any, times: Any) -> None:
    """One of the bare processes: its share of the calls, in a plain loop, nothing sent."""
    start.wait()
    begin = perf_counter()
    for _ in range(calls):
        fn(x)
    times.put(perf_counter() - begin)


def bare_seconds(fn: Callable[[Any], object], x: object, calls: int) -> float:
    """The ideal here and now: as many bare processes as workers, which divide the calls beforehand."""
    context = multiprocessing.get_context("fork")
    start, times = context.Barrier(WORKERS), context.SimpleQueue()
    shares = [context.Process(target=_share, args=(fn, x, calls // WORKERS, start, times)) for _ in range(WORKERS)]
    for process in shares:
        process.start()
    slowest: float = max(times.get() for _ in shares)
    for process in shares:
        process.join()
    return slowest


def one_millisecond(name: str, size: Size, report: Report) -> None:
    """Compare with two bare processes just before and after (fixed work), and with the clock (fixed time)."""
    calls = size["calls"]
    turns = work.turns_for(CALL_SECONDS)
    before = bare_seconds(work.spin, turns, calls)
    pool = CONTENDERS[name](WORKERS)
    submit, result = pool.submit, pool.result
    assert submit is not None and result is not None

    def through_pool(fn: Callable[[Any], object], x: object) -> float:
        begin = perf_counter()
        handles = [submit(fn, x) for _ in range(calls)]
        for handle in handles:
            result(handle)
        return perf_counter() - begin

    for handle in [submit(work.f, i) for i in range(WARM_UP)]:
        result(handle)
    fixed_work = through_pool(work.spin, turns)
    fixed_time = through_pool(work.spin_until, CALL_SECONDS)
    after = bare_seconds(work.spin, turns, calls)
    ideal = calls * CALL_SECONDS / WORKERS
    report(
        {
            "of_clock": 100 * ideal / fixed_time,
            "of_bare": 100 * (before + after) / 2 / fixed_work,
            "bare": 100 * ideal / ((before + after) / 2),
        }
    )
    pool.close()


FIGURES = (
    Figure(
        "computing",
        "Calls that compute for 1 ms, a task each, on two workers",
        (
            Value("of_clock", "% of the ideal by the clock", 1, ratio=False, goals=(Goal("value", "at least", 97),)),
            Value("of_bare", "% of what two bare processes reach", 1, ratio=False),
            Value("bare", "% of the ideal that two bare processes reach", 1, ratio=False),
        ),
        (OURS, "multitask-pipes", "mp", *(name for name in PROCESS_PEERS if name != "joblib")),
        one_millisecond,
        full={"calls": 2_000},
        quick={"calls": 200},
        remarks=(
            "By the clock: each call ends when 1 ms has passed, so the ideal is calls / 2 ms whatever the machine "
            "does. Bare: each call is a fixed amount of work, calibrated to 1 ms; two processes without a pool do the "
            "same just before and after, and the last column shows how much of two quiet processors they got."
        ),
    ),
)
