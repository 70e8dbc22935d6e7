"""Settling a task against everybody who may look at that moment; interleavings are forced, never slept for."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bare_core import Core, Task, Waiter, drop, fail, finish

from multitask._engine import taskbase
from multitask._engine.core import FINISHED


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def aside() -> Iterator[Callable[..., Any]]:
    """Runs a function on another thread; joined at the end."""
    with concurrent.futures.ThreadPoolExecutor() as threads:
        yield threads.submit


# --- one task


def test_a_task_is_settled_once(core: Core) -> None:
    task = Task(core, None)
    assert not task._settled
    assert finish(task, 5)
    assert not fail(task, ValueError())
    assert not drop(task)
    assert task._outcome() == (True, 5)
    assert task._status == FINISHED


def test_the_outcome_of_a_pending_task_is_refused(core: Core) -> None:
    with pytest.raises(RuntimeError, match="not settled"):
        Task(core, None)._outcome()


def test_state_follows_the_names_of_concurrent_futures(core: Core) -> None:
    task = Task(core, None)
    assert task._state == "PENDING"
    core.busy.add(task)
    assert task._state == "RUNNING"
    finish(task)
    assert task._state == "FINISHED"
    gone = Task(core, None)
    drop(gone)
    assert gone._state == "CANCELLED_AND_NOTIFIED"


def test_result_and_exception_are_there_for_those_who_look(core: Core) -> None:
    good, bad = Task(core, None), Task(core, None)
    assert good._result is None and good._exception is None
    error = ValueError("no")
    finish(good, 3)
    fail(bad, error)
    assert (good._result, good._exception) == (3, None)
    assert (bad._result, bad._exception) == (None, error)


def test_only_failures_are_kept_as_failures(core: Core) -> None:
    tasks = [Task(core, None) for _ in range(3)]
    finish(tasks[0])
    fail(tasks[1], ValueError())
    drop(tasks[2])
    assert core.failures == [tasks[1]]
    assert not tasks[1]._asked
    tasks[1]._outcome()
    assert tasks[1]._asked


def test_a_task_is_small(core: Core) -> None:
    assert sys.getsizeof(Task(core, None)) < 250


# --- hooks


def test_hooks_go_to_the_callback_thread_once_and_in_order(core: Core) -> None:
    first, second = Task(core, None), Task(core, None)
    hooks = [lambda task: None for _ in range(3)]
    assert all(first._add_hook(hook) for hook in hooks)
    assert second._add_hook(hooks[0])
    finish(second)
    finish(first)
    finish(first)
    assert core.callbacks.calls == [(second, [hooks[0]]), (first, hooks)]


def test_a_hook_for_a_settled_task_is_refused(core: Core) -> None:
    task = Task(core, None)
    finish(task)
    assert not task._add_hook(print)
    assert core.callbacks.calls == []


def test_a_hook_added_while_the_task_is_being_settled_is_called_or_refused(
    core: Core, aside: Callable[..., Any]
) -> None:
    # Settling waits for the condition; whoever adds a hook while it waits comes in time.
    task = Task(core, None)
    with task._condition:
        settled = aside(finish, task)
        assert task._add_hook(print)
        assert not task._settled
    assert settled.result(10)
    assert core.callbacks.calls == [(task, [print])]
    assert not task._add_hook(print)


# --- concurrent.futures.wait and as_completed


def test_settling_waits_while_somebody_inspects_under_the_condition(core: Core, aside: Callable[..., Any]) -> None:
    task = Task(core, None)
    with task._condition:
        settled = aside(finish, task)
        for _ in range(1000):
            assert task._state == "PENDING"  # not published while the inspector holds the condition
        waiter = Waiter()
        task._waiters.append(waiter)
    assert settled.result(10)
    assert waiter.told == [("result", task)]


def test_waiters_are_told_how_it_ended(core: Core) -> None:
    waiter = Waiter()
    tasks = [Task(core, None) for _ in range(3)]
    for task in tasks:
        task._waiters.append(waiter)
    finish(tasks[0])
    fail(tasks[1], ValueError())
    drop(tasks[2])
    assert waiter.told == [("result", tasks[0]), ("exception", tasks[1]), ("cancelled", tasks[2])]


@pytest.mark.parametrize("settled_before", [0, 1, 2, 3])
def test_wait_for_all_returns_when_the_last_is_settled(
    core: Core, aside: Callable[..., Any], settled_before: int
) -> None:
    tasks = [Task(core, None) for _ in range(3)]
    for task in tasks[:settled_before]:
        finish(task)
    waiting = aside(concurrent.futures.wait, tasks, 10)
    for task in tasks[settled_before:]:
        finish(task)
    done, pending = waiting.result(10)
    assert done == set(tasks) and not pending


def test_wait_returns_at_the_first_exception(core: Core, aside: Callable[..., Any]) -> None:
    tasks = [Task(core, None) for _ in range(3)]
    waiting = aside(concurrent.futures.wait, tasks, 10, concurrent.futures.FIRST_EXCEPTION)
    finish(tasks[0])
    fail(tasks[1], ValueError())
    done, pending = waiting.result(10)
    assert tasks[1] in done and pending == {tasks[2]}


def test_as_completed_yields_in_order_of_completion(core: Core) -> None:
    tasks = [Task(core, None) for _ in range(4)]
    stream = concurrent.futures.as_completed(tasks, 10)
    for number in (2, 0, 3, 1):
        finish(tasks[number])
        assert next(stream) is tasks[number]


def wait_together(start: threading.Barrier, tasks: list[Any]) -> Any:
    start.wait(10)
    return concurrent.futures.wait(tasks, 10)


def test_many_settlers_against_many_waiters(core: Core, aside: Callable[..., Any]) -> None:
    # Both orders of every race occur in 300 rounds; a lost notification hangs and is found by the timeout.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            tasks = [Task(core, None) for _ in range(4)]
            start = threading.Barrier(3)
            waits = [aside(wait_together, start, tasks) for _ in range(2)]
            start.wait(10)
            for task in tasks:
                finish(task)
            for waiting in waits:
                assert not waiting.result(20).not_done
    finally:
        sys.setswitchinterval(interval)


def test_a_condition_made_between_the_look_and_the_publication_is_honoured(
    core: Core, aside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The lock that guards the word hands over to a thread that makes the condition just before settle has it.
    task = Task(core, None)
    made: list[threading.Condition] = []

    class Word:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.done = False

        def __enter__(self) -> None:
            if not self.done:
                self.done = True
                made.append(aside(lambda: task._condition).result(10))
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    monkeypatch.setattr(taskbase, "_word", Word())
    assert finish(task)
    assert made == [task._condition]
    assert task._wait(0)


# --- waiting


def test_a_wait_that_runs_out_says_so(core: Core) -> None:
    task = Task(core, None)
    assert not task._wait(0)
    assert not task._wait(0.001)
    finish(task)
    assert task._wait(0) and task._wait(None)


def test_a_wait_ends_when_the_task_is_settled(core: Core, aside: Callable[..., Any]) -> None:
    task = Task(core, None)
    waiting = [aside(task._wait, 10) for _ in range(3)]
    finish(task)
    assert all(each.result(20) for each in waiting)


# --- decoding


def test_a_reply_is_decoded_on_first_use_and_once(core: Core) -> None:
    task = Task(core, None)
    task._settle(FINISHED, True, "raw", raw=True)
    assert core.encoder.loads == 0
    ok, value = task._outcome()
    assert ok and value == ["raw"]
    assert task._outcome()[1] is value
    assert core.encoder.loads == 1


def test_two_threads_that_ask_at_once_get_the_same_object(core: Core, aside: Callable[..., Any]) -> None:
    task = Task(core, None)
    task._settle(FINISHED, True, "raw", raw=True)
    inside, leave = threading.Event(), threading.Event()
    core.encoder.during = lambda: (inside.set(), leave.wait(10))
    first = aside(task._outcome)
    assert inside.wait(10)
    second = aside(task._outcome)
    leave.set()
    assert first.result(10)[1] is second.result(10)[1]
    assert core.encoder.loads == 1


def test_a_reply_that_cannot_be_decoded_is_a_failure(core: Core) -> None:
    error = SystemExit("odd")
    task = Task(core, None)
    task._settle(FINISHED, True, error, raw=True)
    assert task._outcome() == (False, error)


def test_ctrl_c_while_decoding_leaves_the_reply_to_the_next_call(core: Core) -> None:
    task = Task(core, None)
    task._settle(FINISHED, True, "raw", raw=True)

    def interrupt() -> None:
        raise KeyboardInterrupt

    core.encoder.during = interrupt
    with pytest.raises(KeyboardInterrupt):
        task._outcome()
    core.encoder.during = lambda: None
    assert task._outcome() == (True, ["raw"])


def test_an_error_is_decoded_by_load_error(core: Core) -> None:
    task = Task(core, None)
    task._settle(FINISHED, False, "raw", raw=True)
    ok, error = task._outcome()
    assert not ok and isinstance(error, ValueError)


def test_the_submitting_line_is_the_first_one_outside_of_the_package() -> None:
    site = taskbase.caller()
    assert site is not None
    assert site[0] is sys._getframe().f_code
