"""Tasks watched together: baskets handed out in order of completion, groups settled as one."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bare_core import Core, Task, Waiter, drop, fail, finish
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask._engine.core import CALL, CHUNK
from multitask._engine.taskbase import Basket, flatten


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def aside() -> Iterator[Callable[..., Any]]:
    """Runs a function on another thread; joined at the end."""
    with concurrent.futures.ThreadPoolExecutor() as threads:
        yield threads.submit


# --- baskets and groups


def group(core: Core, total: int, mode: int = CHUNK) -> tuple[Any, Basket, list[Any]]:
    parent = Task(core, None)
    basket = parent._basket = Basket(core, total, parent)
    members = [Task(core, None, None, mode, basket) for _ in range(total)]
    basket.members.extend(members)
    return parent, basket, members


def test_a_basket_hands_out_members_in_order_of_completion(core: Core) -> None:
    basket = Basket(core, 3)
    tasks = [Task(core, None, basket=basket) for _ in range(3)]
    assert not basket._wait(0)
    for number in (1, 2, 0):
        finish(tasks[number])
    assert basket._wait(0)
    assert [basket.ready.popleft() for _ in range(3)] == [tasks[1], tasks[2], tasks[0]]
    assert basket._wait(None), "all members are settled"


def test_a_basket_whose_total_is_set_late_is_finished_then(core: Core, aside: Callable[..., Any]) -> None:
    basket = Basket(core)
    finish(Task(core, None, basket=basket))
    basket.ready.popleft()
    waiting = aside(basket._wait, 10)
    basket.total = 1
    assert waiting.result(20)


def test_a_sleeper_on_a_basket_is_woken_by_a_member(core: Core, aside: Callable[..., Any]) -> None:
    for _ in range(100):
        basket = Basket(core, 2)
        task = Task(core, None, basket=basket)
        waiting = aside(basket._wait, 10)
        finish(task)
        assert waiting.result(20)


class Door:
    """A condition's lock that says when somebody stands before it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.reached = threading.Event()

    def acquire(self) -> bool:
        if not self._lock.acquire(blocking=False):
            self.reached.set()
            self._lock.acquire()
        return True

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


def test_a_member_settled_between_the_last_look_and_the_sleep_wakes_the_sleeper(
    core: Core, aside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    basket = Basket(core, 2)
    task = Task(core, None, basket=basket)
    door = Door()
    basket._condition = threading.Condition(door)  # type: ignore[arg-type]
    settling: list[Any] = []
    sleep = basket._condition.wait

    def settled_meanwhile(timeout: float | None = None) -> bool:
        if not settling:
            settling.append(aside(finish, task))
            settling[0].add_done_callback(lambda _: door.reached.set())
            assert door.reached.wait(20)  # it waits for us to sleep; or it is through, and has not seen us
            assert basket.ready
        return sleep(timeout)

    monkeypatch.setattr(basket._condition, "wait", settled_meanwhile)
    waiting = aside(basket._wait, None)
    try:
        assert waiting.result(10)
    finally:
        basket.total = 1  # lets the sleeper go in any case


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(5)))
def test_a_group_is_settled_with_its_last_member_and_keeps_their_order(order: list[int]) -> None:
    core = Core()
    parent, _, members = group(core, 5)
    for number in order:
        assert not parent._settled
        finish(members[number], [number, -number])
    assert parent._outcome() == (True, [0, 0, 1, -1, 2, -2, 3, -3, 4, -4])


@given(st.permutations(range(4)))
def test_a_group_fails_with_the_first_failed_member_in_order(order: list[int]) -> None:
    core = Core()
    parent, _, members = group(core, 4)
    errors = [None, ValueError(1), None, ValueError(3)]
    for number in order:
        error = errors[number]
        if error is None:
            finish(members[number], [0])
        else:
            fail(members[number], error)
    assert core.failures == [parent], "its members' errors are not reported besides"
    assert parent._outcome() == (False, errors[1])
    assert all(member._asked for member in members)


def test_members_that_are_single_calls_are_not_flattened(core: Core) -> None:
    _, _, members = group(core, 2, CALL)
    finish(members[0], [1])
    finish(members[1], [2])
    assert flatten(members) == (True, [[1], [2]])


def test_a_group_tells_waiters_that_it_failed(core: Core) -> None:
    parent, _, members = group(core, 2)
    waiter = Waiter()
    parent._waiters.append(waiter)
    fail(members[0], ValueError())
    finish(members[1], [])
    assert waiter.told == [("exception", parent)]


def test_a_group_that_was_cancelled_stays_cancelled(core: Core) -> None:
    parent, _, members = group(core, 1)
    drop(parent)
    finish(members[0], [1])
    assert parent._state == "CANCELLED_AND_NOTIFIED"


def test_a_cancelled_member_makes_its_group_fail_with_that(core: Core) -> None:
    parent, _, members = group(core, 2)
    finish(members[0], [1])
    drop(members[1])
    ok, error = parent._outcome()
    assert not ok and isinstance(error, concurrent.futures.CancelledError)
