"""Calls that run in the caller, inside submit."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
from typing import Any

import pytest

from multitask._engine.core import CHUNK, FINISHED, GONE, RUNNING, TAKEN_BACK, Options
from multitask._engine.workers.inline import InlineCore
from multitask.errors import NotSupported, PoolClosed


@pytest.fixture
def core() -> InlineCore:
    return InlineCore()


def fail(error: BaseException) -> None:
    raise error


def test_the_call_runs_in_this_thread_and_is_settled_at_return(core: InlineCore) -> None:
    task = core.submit(threading.current_thread, (), None)
    assert task._status == FINISHED
    assert task._outcome() == (True, threading.current_thread())
    assert core.wait(task, None) and core.withdraw(task) == GONE and core.unfinished == 0


@pytest.mark.parametrize("error", [ValueError(), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_the_call_raises_is_its_outcome(core: InlineCore, error: BaseException) -> None:
    task = core.submit(fail, (error,), None)
    assert task._outcome() == (False, error)
    assert core.failures == [task]


def test_ctrl_c_during_the_call_reaches_the_caller(core: InlineCore) -> None:
    with pytest.raises(KeyboardInterrupt):
        core.submit(signal.raise_signal, (signal.SIGINT,), None)
    assert core.unfinished == 0 and core.failures[0]._asked


def test_retries_are_made_at_once(core: InlineCore) -> None:
    tries: list[int] = []

    def third_time() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError
        return 7

    assert core.submit(third_time, (), None, Options(retries=2))._outcome() == (True, 7)
    tries.clear()
    assert not core.submit(third_time, (), None, Options(retries=1, backoff=0.001))._outcome()[0]
    assert len(tries) == 2


def test_a_timeout_is_refused_with_the_kind_that_can(core: InlineCore) -> None:
    with pytest.raises(NotSupported, match="kind='process'"):
        core.submit(abs, (1,), None, Options(timeout=1))


def test_a_group_is_settled_by_its_last_member(core: InlineCore) -> None:
    parent, basket = core.group(2)
    core.submit(abs, ([-1],), None, None, CHUNK, basket)
    assert not parent._settled
    core.submit(abs, ([-2, -3],), None, None, CHUNK, basket)
    assert parent._outcome() == (True, [1, 2, 3])
    assert core.group(0)[0]._outcome() == (True, [])


def test_an_unfinished_group_can_be_withdrawn(core: InlineCore) -> None:
    parent, _ = core.group(2)
    assert core.withdraw(parent) == TAKEN_BACK
    with pytest.raises(concurrent.futures.CancelledError):
        raise parent._outcome()[1]


def test_a_call_can_submit_another_one(core: InlineCore) -> None:
    task = core.submit(lambda: core.submit(abs, (-1,), None)._outcome(), (), None)
    assert task._outcome() == (True, (True, 1))


def test_a_running_call_is_seen_as_running(core: InlineCore) -> None:
    seen: list[Any] = []

    def look() -> None:
        (task,) = core._running
        seen.append((core.running(task), core.withdraw(task), core.counts(), task._state))
        assert core.started(task) is not None

    assert core.submit(look, (), None)._outcome()[0]
    assert seen == [(True, RUNNING, (0, 1, 1), "RUNNING")]


def test_a_closed_core_takes_no_more_work(core: InlineCore) -> None:
    core.close()
    with pytest.raises(PoolClosed):
        core.submit(abs, (1,), None)


def test_posts_are_events(core: InlineCore) -> None:
    assert core.attend(0) == []
    core.post(1)
    core.post(2)
    assert core.attend(None) == [("post", 1), ("post", 2)]
