"""Which worker gets which task, compared with rules written the long way."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask._engine import dispatch


@dataclass
class Worker:
    wid: int
    feeding: bool = True
    held: int = 0
    unstarted: int = 0


def worker_lists() -> st.SearchStrategy[list[Worker]]:
    one = st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 6))
    return st.lists(one, max_size=6).map(
        lambda rows: [Worker(7 - wid, feeding, held, min(held, rest)) for wid, (feeding, held, rest) in enumerate(rows)]
    )


@given(worker_lists(), st.integers(1, 5))
def test_the_least_loaded_worker_with_room_is_chosen(workers: list[Worker], depth: int) -> None:
    chosen = dispatch.choose(workers, depth)
    able = [worker for worker in workers if worker.feeding and worker.held < depth]
    if not able:
        assert chosen is None
        return
    least = min(worker.held for worker in able)
    assert chosen == min(worker.wid for worker in able if worker.held == least)


@given(worker_lists(), st.integers(0, 2))
def test_an_idle_worker_causes_half_of_the_longest_tail_to_move(workers: list[Worker], waiting: int) -> None:
    move = dispatch.steal(workers, waiting)
    idle = any(worker.feeding and not worker.held for worker in workers)
    tails = [worker for worker in workers if worker.held > 1 and worker.unstarted]
    longest = max((worker.held for worker in tails), default=0)
    if waiting or not idle or not longest:
        assert move is None
        return
    assert move is not None
    victim = min((worker for worker in tails if worker.held == longest), key=lambda worker: worker.wid)
    assert move.victim == victim.wid
    assert move.tasks == min(victim.unstarted, longest // 2) > 0


def test_the_most_loaded_worker_gives() -> None:
    workers = [Worker(1), Worker(2, held=3, unstarted=2), Worker(3, held=5, unstarted=4)]
    assert dispatch.steal(workers, 0) == (3, 2)
    assert dispatch.steal(workers[::-1], 0) == (3, 2)
    assert dispatch.steal(workers, 1) is None


def test_a_workers_only_task_stays_where_it_is() -> None:
    assert dispatch.steal([Worker(1), Worker(2, held=1, unstarted=1)], 0) is None


def test_a_single_waiting_task_moves_too() -> None:
    assert dispatch.steal([Worker(1), Worker(2, held=2, unstarted=1)], 0) == (2, 1)


def test_depth_is_one_until_a_call_was_seen() -> None:
    assert dispatch.Depth().value == 1


def test_depth_grows_for_microsecond_calls_up_to_the_limit() -> None:
    depth = dispatch.Depth(limit=64, ahead_seconds=0.001)
    for _ in range(100):
        depth.learn(2e-6)
    assert depth.value == 64


def test_one_long_call_brings_the_depth_down_to_one_at_once() -> None:
    depth = dispatch.Depth(limit=64, ahead_seconds=0.001)
    depth.learn(2e-6)
    assert depth.learn(0.5) == 1


@given(st.lists(st.floats(0, 10), min_size=1), st.integers(1, 64))
def test_depth_stays_within_its_limits(lengths: list[float], limit: int) -> None:
    depth = dispatch.Depth(limit)
    assert all(1 <= depth.learn(seconds) <= limit for seconds in lengths)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        dispatch.Depth(0)
