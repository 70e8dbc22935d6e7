"""Who runs next: names, keys, and that waiting makes up for priority."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask import policies
from multitask._engine.core import Options


def test_a_policy_is_made_from_its_name_in_any_case() -> None:
    assert isinstance(policies.make("fifo"), policies.FIFO)
    assert isinstance(policies.make("Priority"), policies.Priority)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown policy 'lifo'; known are 'fifo', 'priority'"):
        policies.make("lifo")


def test_a_class_is_refused_with_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"write policy=FIFO\(\)"):
        policies.make(policies.FIFO)  # type: ignore[arg-type]


def test_an_object_without_a_key_is_refused() -> None:
    with pytest.raises(TypeError, match="name or have a method key"):
        policies.make(3)  # type: ignore[arg-type]


def test_a_policy_of_the_users_own_is_taken_as_it_is() -> None:
    class Backwards:
        def key(self, options: Options | None, now: float) -> float:
            return -now

    mine = Backwards()
    assert policies.make(mine) is mine


@pytest.mark.parametrize("ageing", [0, -1.0, float("nan"), float("inf")])
def test_ageing_must_be_a_positive_number(ageing: float) -> None:
    with pytest.raises(ValueError, match="ageing"):
        policies.Priority(ageing=ageing)


def test_fifo_gives_equal_keys() -> None:
    assert policies.FIFO().key(None, 1.0) == policies.FIFO().key(Options(priority=9), 2.0)


def test_without_options_the_priority_is_zero() -> None:
    policy = policies.Priority()
    assert policy.key(None, 5.0) == policy.key(Options(), 5.0)


moments = st.integers(0, 10_000).map(lambda tenths: tenths / 8)


@given(st.lists(st.tuples(moments, st.integers(-5, 5)), min_size=2, max_size=30), st.sampled_from([0.25, 1.0, 4.0]))
def test_nobody_is_overtaken_by_tasks_submitted_after_the_bound(
    submitted: list[tuple[float, int]], ageing: float
) -> None:
    policy = policies.Priority(ageing)
    keys = [policy.key(Options(priority=priority), now) for now, priority in submitted]
    for (now, priority), key in zip(submitted, keys, strict=True):
        for (later, other), other_key in zip(submitted, keys, strict=True):
            if other_key < key and later >= now:
                assert other > priority
                assert later - now < (other - priority) * ageing


def test_under_an_endless_stream_of_urgent_tasks_a_task_runs_within_the_bound() -> None:
    # One worker, calls of a second, each second a new urgent task arrives.
    policy = policies.Priority(ageing=2.0)
    line = [(policy.key(Options(priority=0), 0.0), 0.0, "patient")]
    for second in range(100):
        line.append((policy.key(Options(priority=10), float(second)), float(second), "urgent"))
        line.sort()
        if line.pop(0)[2] == "patient":
            assert second <= 10 * 2.0
            return
    pytest.fail("it starved")
