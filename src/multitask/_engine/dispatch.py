"""Which worker gets which task: pure rules, no threads, no clock.

* Feeding: the least loaded ready worker with room; of equals the one with the lowest id.
* Depth: how many tasks a worker may hold. Deep for tasks of microseconds, so that no worker waits for a
  wake-up between two of them; one for long tasks, so that nothing waits behind them.
* Stealing: when a worker is idle and the line is empty, half of what stands behind the first task of the most
  loaded worker moves (rounded up, and only what has not started), from its tail: those would have waited longest.
  A worker's only task stays, for that worker is about to start it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Load(Protocol):
    """What these rules look at in a worker."""

    @property
    def wid(self) -> int: ...
    @property
    def feeding(self) -> bool:
        """It said hello and is neither retired, condemned nor gone."""
        ...

    @property
    def held(self) -> int:
        """How many tasks it holds, the running one included."""
        ...

    @property
    def unstarted(self) -> int:
        """How many of them it has not started."""
        ...


class Steal(NamedTuple):
    """Take the last *tasks* tasks back from worker *victim*."""

    victim: int
    tasks: int


def choose(workers: Iterable[Load], depth: int) -> int | None:
    """The id of the worker that gets the next task, or None when nobody has room."""
    best: tuple[int, int] | None = None
    for worker in workers:
        if worker.feeding and worker.held < depth:
            rank = (worker.held, worker.wid)
            if best is None or rank < best:
                best = rank
    return None if best is None else best[1]


def steal(workers: Iterable[Load], waiting: int) -> Steal | None:
    """What to take back, if a worker is idle while another has tasks it has not started."""
    if waiting:
        return None
    idle = False
    victim: tuple[int, int] | None = None
    movable = 0
    for worker in workers:
        if worker.feeding and worker.held == 0:
            idle = True
        rank = (-worker.held, worker.wid)
        if worker.held > 1 and worker.unstarted and (victim is None or rank < victim):
            victim = rank
            movable = min(worker.unstarted, worker.held // 2)
    if not idle or victim is None:
        return None
    return Steal(victim[1], movable)


class Depth:
    """Learns from how long calls take how many of them a worker may hold.

    Aims at *ahead_seconds* of work in hand. One call longer than that brings the depth down to 1 at once
    (tasks must not pile up behind it); short ones raise it gradually.
    """

    def __init__(self, limit: int = 64, ahead_seconds: float = 0.001) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit!r}")
        self.limit = limit
        self.ahead_seconds = ahead_seconds
        self.value = 1
        self._mean: float | None = None

    def learn(self, seconds: float) -> int:
        """Take note of one call's length; returns the depth from now on."""
        seconds = max(seconds, 1e-7)
        if self._mean is None or seconds >= self.ahead_seconds:
            self._mean = seconds
        else:
            self._mean += (seconds - self._mean) / 4
        self.value = max(1, min(self.limit, int(self.ahead_seconds / self._mean)))
        return self.value
