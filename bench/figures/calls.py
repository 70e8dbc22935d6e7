"""Calls and maps of a function that does next to nothing, the round trip, and 1 ms of computing."""

from __future__ import annotations

import statistics
from functools import partial
from time import perf_counter

import work
from contenders import CONTENDERS, OURS, PROCESS_PEERS, THREAD_PEERS, Contender, consume

from figures.figure import Figure, Goal, Report, Size, Value

WORKERS = 2
WARM_UP = 300
OWN_KINDS = (OURS, "multitask-pipes", "multitask-threads")
ALL = (*OWN_KINDS, "mp", *PROCESS_PEERS, *THREAD_PEERS)
WITH_HANDLES = tuple(name for name in ALL if name != "joblib")
WITH_IMAP = tuple(name for name in ALL if name in (*OWN_KINDS, "mp", "joblib", "mpire", "billiard", "threadpool"))


def _warm(contender: Contender) -> None:
    """Bring the workers up and the function into them."""
    if contender.map_one is not None:
        contender.map_one(work.f, range(WARM_UP))


def each_a_task(name: str, size: Size, report: Report) -> None:
    """Submit all calls, then ask each for its result."""
    pool = CONTENDERS[name](WORKERS)
    submit, result = pool.submit, pool.result
    assert submit is not None and result is not None
    _warm(pool)
    n = size["calls"]
    begin = perf_counter()
    handles = [submit(work.f, i) for i in range(n)]
    total = sum(result(handle) for handle in handles)
    seconds = perf_counter() - begin
    assert total == n * (n + 1) // 2
    report({"rate": n / seconds})
    pool.close()


def round_trip(name: str, size: Size, report: Report) -> None:
    """One call after another, each waited for."""
    pool = CONTENDERS[name](WORKERS)
    call = pool.call
    assert call is not None
    _warm(pool)
    trips = []
    for i in range(size["calls"] // (10 if pool.slow_call else 1)):
        begin = perf_counter()
        call(work.f, i)
        trips.append((perf_counter() - begin) * 1e6)
    cuts = statistics.quantiles(trips, n=100)
    report({"median": cuts[49], "p99": cuts[98]})
    pool.close()


def mapped(name: str, size: Size, report: Report) -> None:
    """map() with the pool's own choice of chunks."""
    pool = CONTENDERS[name](WORKERS)
    assert pool.map is not None
    _warm(pool)
    n = size["slow"] if pool.slow_map else size["items"]
    items = list(range(n))
    begin = perf_counter()
    results = pool.map(work.f, items)
    seconds = perf_counter() - begin
    assert len(results) == n and results[-1] == n
    report({"rate": n / seconds})
    pool.close()


def mapped_singly(name: str, size: Size, report: Report) -> None:
    """map() with a message per item."""
    pool = CONTENDERS[name](WORKERS)
    assert pool.map_one is not None
    _warm(pool)
    n = size["items"]
    items = list(range(n))
    begin = perf_counter()
    results = pool.map_one(work.f, items)
    seconds = perf_counter() - begin
    assert len(results) == n and results[-1] == n
    report({"rate": n / seconds})
    pool.close()


def iterated(method: str, name: str, size: Size, report: Report) -> None:
    """imap() or imap_unordered() with a message per item."""
    pool = CONTENDERS[name](WORKERS)
    iterate = getattr(pool, method)
    consume(iterate(work.f, range(WARM_UP)))  # not by another method: mpire's workers keep the first one's protocol
    items = list(range(size["items"]))
    begin = perf_counter()
    consume(iterate(work.f, items))
    report({"rate": len(items) / (perf_counter() - begin)})
    pool.close()


def _iterated(method: str) -> Figure:
    return Figure(
        method.replace("_", "-"),
        f"`{method}` over ints, a message per item",
        (Value("rate", f"items {_RATE}", 0, goals=(Goal("ratio", "at least", 5),)),),
        WITH_IMAP,
        partial(iterated, method),
        full={"items": 20_000},
        quick={"items": 3_000},
    )


_RATE = "per second"

FIGURES = (
    Figure(
        "one-by-one",
        "Calls of `f(x) = x + 1`, a task each, all submitted, then all collected",
        (Value("rate", "calls per second", 0, goals=(Goal("ratio", "at least", 12), Goal("place", "first"))),),
        WITH_HANDLES,
        each_a_task,
        full={"calls": 20_000},
        quick={"calls": 3_000},
    ),
    Figure(
        "round-trip",
        "Round trip of one call on a warm pool",
        (
            Value("median", "median, µs", 0, higher_is_better=False, goals=(Goal("ratio", "at most", 0.5),)),
            Value("p99", "99th percentile, µs", 0, higher_is_better=False, goals=(Goal("ratio", "at most", 0.2),)),
        ),
        ALL,
        round_trip,
        full={"calls": 2_000},
        quick={"calls": 300},
    ),
    Figure(
        "map",
        "`map` over 1,000,000 ints, chunks as each pool chooses them",
        (Value("rate", f"items {_RATE}", 0, goals=(Goal("ratio", "at least", 1.2),)),),
        ALL,
        mapped,
        full={"items": 1_000_000, "slow": 20_000},
        quick={"items": 200_000, "slow": 3_000},
        remarks="Executors and pebble send a message per item by default; they get 20,000 items.",
    ),
    Figure(
        "map-1",
        "`map` over ints, a message per item",
        (Value("rate", f"items {_RATE}", 0),),
        ALL,
        mapped_singly,
        full={"items": 20_000},
        quick={"items": 3_000},
    ),
    _iterated("imap"),
    _iterated("imap_unordered"),
)
