"""Differences on purpose, tested one by one: the Executor's and its tasks'."""

import concurrent.futures
import multiprocessing
import sys
import threading

import pytest
import work

import multitask
from multitask import Executor

SECONDS = 60  # detects a hang only


@pytest.mark.workers
def test_a_task_runs_when_its_call_does(variant, gate):
    with variant.executor(1) as executor:
        running, next_one = executor.submit(gate.hold), executor.submit(work.add_one, 1)
        gate.wait_arrived()
        assert running.running() and not next_one.running()
        assert next_one.cancel()
        gate.release()


def test_a_done_callback_that_raises_is_reported(variant, monkeypatch, caplog):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(str(report.exc_value)))

    def bad(task):
        raise RuntimeError("a callback fails")

    heard = threading.Event()
    with variant.executor(1) as executor:
        task = executor.submit(work.add_one, 1)
        task.add_done_callback(bad)
        task.add_done_callback(lambda _: heard.set())
        assert heard.wait(SECONDS)
    assert reported == ["a callback fails"] and caplog.text == ""


def test_the_state_of_a_task_belongs_to_its_pool(variant):
    with variant.executor(1) as executor:
        task = executor.submit(work.add_one, 1)
        for change in (
            lambda: task.set_result(3),
            lambda: task.set_exception(ValueError()),
            task.set_running_or_notify_cancel,
        ):
            with pytest.raises(concurrent.futures.InvalidStateError):
                change()
        assert task.result() == 2


@pytest.mark.processes
def test_workers_start_with_the_executor(variant, tmp_path, gate):
    with variant.executor(2, initializer=gate.hold):
        gate.wait_arrived(2)  # both are there, and nothing was submitted
        gate.release(2)


@pytest.mark.processes
def test_terminate_workers_cancels_what_runs_and_what_waits(variant, gate):
    for stop in (Executor.terminate_workers, Executor.kill_workers):
        executor = variant.executor(1)
        tasks = [executor.submit(gate.hold), executor.submit(work.add_one, 1)]
        gate.wait_arrived()
        stop(executor)
        assert all(task.cancelled() for task in tasks)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(work.add_one, 1)


def test_threads_cannot_be_killed():
    with Executor(1, kind="thread") as executor:
        with pytest.raises(multitask.NotSupported, match="cannot be killed"):
            executor.terminate_workers()
        assert executor.submit(work.add_one, 1).result() == 2


def test_a_prefix_names_the_threads():
    with Executor(1, kind="thread", thread_name_prefix="loader") as executor:
        assert executor.submit(lambda: threading.current_thread().name).result() == "loader-0"


def test_max_tasks_per_child_goes_with_fork():
    with Executor(1, multiprocessing.get_context("fork"), max_tasks_per_child=1) as executor:
        assert len({executor.submit(work.my_pid).result() for _ in range(3)}) == 3


@pytest.mark.processes
def test_leaving_by_ctrl_c_stops_the_work(variant, gate):
    with pytest.raises(KeyboardInterrupt):
        with variant.executor(1) as executor:
            running, waiting = executor.submit(gate.hold), executor.submit(work.add_one, 1)
            gate.wait_arrived()
            raise KeyboardInterrupt
    assert running.cancelled() and waiting.cancelled()
