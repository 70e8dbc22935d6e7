"""What a pool does while nobody asks it for anything: wake-ups of any of its threads, counted by the kernel."""

from __future__ import annotations

import os
import threading
from time import perf_counter, sleep

import processes
import work
from contenders import CONTENDERS, OURS, PROCESS_PEERS, Multitask

from figures.calls import WORKERS
from figures.figure import Figure, Goal, Report, Size, Value

WITH_LIMIT = "multitask-limit"
SETTLE_SECONDS = 1.5  # what a pool still does after its last result is not idleness


def _pool(name: str) -> Multitask:
    if name == WITH_LIMIT:
        return Multitask(WORKERS, max_memory=1 << 30)
    return CONTENDERS[name](WORKERS)  # type: ignore[return-value]


def idle(name: str, size: Size, report: Report) -> None:
    """Run some calls, let the pool settle, then count over a stretch in which only this thread may wake up."""
    pool = _pool(name)
    call = pool.call
    assert call is not None
    for i in range(100 // (10 if pool.slow_call else 1)):
        call(work.f, i)
    sleep(SETTLE_SECONDS)
    token, me = os.environ[processes.TOKEN], threading.get_native_id()
    before, ticks, begin = processes.switches(token, me), processes.ticks(token, me), perf_counter()
    sleep(size["seconds"])
    after, ticks = processes.switches(token, me), processes.ticks(token, me) - ticks
    seconds = perf_counter() - begin
    wakes = sum(after.values()) - sum(count for thread, count in before.items() if thread in after)
    report(
        {
            "wakes": wakes,
            "per_second": wakes / seconds,
            "cpu": 1e3 * ticks / os.sysconf("SC_CLK_TCK"),
            "threads": len(after),
        }
    )
    pool.close()


FIGURES = (
    Figure(
        "idle",
        "An idle pool for 10 s: context switches of all its threads in all its processes",
        (
            Value("wakes", "wake-ups", 0, False, ratio=False, goals=(Goal("value", "at most", 0),)),
            Value("per_second", "per second", 1, False, ratio=False),
            Value("cpu", "CPU, ms", 0, False, ratio=False, goals=(Goal("value", "at most", 0),)),
            Value("threads", "threads", 0, False, ratio=False),
        ),
        (OURS, WITH_LIMIT, "multitask-pipes", "mp", *PROCESS_PEERS),
        idle,
        full={"seconds": 10},
        quick={"seconds": 2},
        most_rounds=1,
        remarks=(
            "Counted in /proc by the kernel, voluntary and not; the thread that measures sleeps and is left out. "
            "One round is enough."
        ),
        row_titles={WITH_LIMIT: "**multitask.Pool** with `max_memory`"},
    ),
)
