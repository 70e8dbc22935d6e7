"""What a portable core does when its workers on pipes end, in any way, at any moment."""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterator
from typing import Any

import pytest
from pipe_bench import Bench, args_of, has_message, packed

from multitask._engine.channels import kinds
from multitask._engine.channels.frames import frame
from multitask._engine.core import CANCELLED, CHUNK, FINISHED


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


# --- endings of workers


def test_the_task_of_a_dead_worker_is_lost_with_what_is_known_about_it(bench: Bench) -> None:
    end = bench.worker(1, watched=True)
    task = bench.submit([1, 2, 3], mode=CHUNK)
    bench.step()
    end.receive()
    end.item(2)
    end.note(b"half way")
    started = bench.core.started(task)
    bench.die(1)
    assert bench.core.attend(10) == [("exit", 1)]
    removed = bench.core.remove_worker(1)
    assert removed.lost is task and removed.item == 2 and removed.started == started
    assert removed.crumb is not None and removed.crumb[0] == "half way"
    assert not task._settled
    bench.core.settle(task, FINISHED, False, ValueError("lost"))
    assert not task._outcome()[0]


def test_a_task_that_a_dead_worker_never_took_runs_elsewhere_before_the_others(bench: Bench) -> None:
    bench.worker(1, watched=True)
    bench.submit(1)
    bench.submit(2)
    bench.step()
    bench.die(1)  # killed with the call in its pipe, unread
    assert bench.core.attend(10) == [("exit", 1)]
    removed = bench.core.remove_worker(1)
    assert removed.lost is None and removed.returned == 1
    assert args_of(bench.worker(2).receive()) == (1,)


def test_a_reply_sent_before_the_death_counts(bench: Bench) -> None:
    end = bench.worker(1, watched=True)
    task = bench.submit(1)
    bench.step()
    end.receive()
    bench.answer(1, "made it")
    bench.die(1)
    assert bench.core.attend(10) == [("exit", 1)]
    assert task._outcome() == (True, "made it")
    assert bench.core.remove_worker(1).lost is None


@pytest.mark.parametrize("cut", [1, 31, 32, 33, -1])
def test_half_a_reply_counts_for_nothing(bench: Bench, cut: int) -> None:
    end = bench.worker(1, watched=True)
    task = bench.submit(1)
    bench.step()
    end.receive()
    os.write(end._fd_out, b"".join(frame(kinds.OK, packed("never")))[:cut])
    bench.die(1)
    assert bench.core.attend(10) == [("exit", 1)]
    assert bench.core.remove_worker(1).lost is task


def test_removing_a_worker_reads_what_it_had_sent(bench: Bench) -> None:
    end = bench.worker(1)
    task = bench.submit(1)
    bench.step()
    end.receive()
    bench.answer(1, 5)
    assert bench.core.remove_worker(1).lost is None
    assert task._outcome() == (True, 5)


def test_a_closed_stream_of_an_unwatched_worker_is_its_end(bench: Bench) -> None:
    bench.worker(1)
    bench.die(1)
    assert bench.core.attend(10) == [("exit", 1)]
    assert bench.step() == []


def test_a_worker_that_closes_its_stream_and_lives_is_told_as_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multitask._engine.pipelanes.GRACE_SECONDS", 0.05)
    bench.worker(1, watched=True)
    bench.ends.pop(1).close()
    assert bench.core.attend(10) == [("exit", 1)]
    bench.submit(1)
    bench.step()
    assert bench.core.counts() == (1, 0, 0), "it gets nothing more"


def test_a_stream_that_carries_no_messages_is_the_end_of_its_worker(bench: Bench) -> None:
    end = bench.worker(1)
    os.write(end._fd_out, b"printed by somebody who guessed the descriptor")
    assert bench.core.attend(10) == [("exit", 1)]


def test_sending_to_a_dead_worker_loses_nothing(bench: Bench) -> None:
    bench.worker(1, watched=True)
    bench.die(1)
    task = bench.submit(1)
    assert bench.core.attend(10) == [("exit", 1)]
    bench.core.remove_worker(1)
    assert args_of(bench.worker(2).receive()) == (1,)
    assert bench.core.running(task)


def test_a_retired_worker_finishes_its_task_and_is_told_to_stop(bench: Bench) -> None:
    end = bench.worker(1)
    task = bench.submit(1)
    bench.step()
    bench.core.retire(1)
    bench.submit(2)
    bench.answer(1, 1)
    bench.step()
    assert task._settled
    assert [end.receive()[0], end.receive()[0]] == [kinds.CALL, kinds.STOP]
    assert not has_message(end)


def test_a_condemned_worker_gets_nothing_more(bench: Bench) -> None:
    bench.worker(1)
    task, other = bench.submit(1), bench.submit(2)
    bench.step()
    assert bench.core.condemn(other) is None
    assert bench.core.condemn(task) == 1
    bench.answer(1, 1)
    bench.step()
    assert task._settled
    assert bench.core.counts() == (1, 0, 0)
    assert bench.core.condemn(task) is None


def test_a_task_given_up_with_its_worker_is_lost_even_when_it_was_not_taken(bench: Bench) -> None:
    bench.worker(1)
    task = bench.submit(1)
    bench.step()
    bench.core.condemn(task)
    bench.die(1)
    assert bench.core.attend(10) == [("exit", 1)]
    assert bench.core.remove_worker(1).lost is task


def test_a_task_settled_while_it_runs_keeps_its_worker_busy_until_the_answer(bench: Bench) -> None:
    end = bench.worker(1)
    task, other = bench.submit(1), bench.submit(2)
    bench.step()
    bench.core.settle(task, CANCELLED, False, None)
    bench.step()
    end.receive()
    assert not has_message(end) and not bench.core.running(task)
    bench.answer(1, 1)
    bench.step()
    assert task._status == CANCELLED
    assert bench.core.running(other)


def test_bye_and_broken_are_told_and_end_the_feeding(bench: Bench) -> None:
    leaving, failing = bench.worker(1), bench.worker(2, hello=False)
    leaving.send(kinds.BYE, "maxtasksperchild")
    failing.send(kinds.BROKEN, packed(ValueError("init")))
    events = []
    while len(events) < 2:
        events += bench.core.attend(10)
    events.sort()
    assert events[0] == ("broken", 2, events[0][2]) and events[0][2].args == ("init",)
    assert events[1] == ("bye", 1, "maxtasksperchild")
    bench.submit(1)
    bench.step()
    assert bench.core.counts() == (1, 0, 0)


def test_everything_a_worker_sent_is_told_before_its_exit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = bench.core._sleeper.sleep

    def death_first(seconds: float | None) -> list[Any]:
        tags = sleep(seconds)
        return [tag for tag in tags if tag[0] == "exit"] or tags

    end = bench.worker(1, watched=True)
    task = bench.submit(1)
    bench.step()
    end.receive()
    monkeypatch.setattr(bench.core._sleeper, "sleep", death_first)
    bench.answer(1, 1)
    end.send(kinds.BYE, "maxtasksperchild")
    bench.die(1)
    assert bench.core.attend(10) == [("bye", 1, "maxtasksperchild"), ("exit", 1)]
    assert task._settled


def test_a_call_that_crosses_a_bye_runs_elsewhere(bench: Bench) -> None:
    end = bench.worker(1, watched=True)
    bench.submit(1)
    bench.step()
    end.send(kinds.BYE, "maxtasksperchild")  # without having read the call
    bench.die(1)
    events = []
    while ("exit", 1) not in events:
        events += bench.core.attend(10)
    removed = bench.core.remove_worker(1)
    assert removed.lost is None and removed.returned == 1


def test_nothing_special_of_linux_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("eventfd", "memfd_create", "pidfd_open"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    for test in (
        test_the_task_of_a_dead_worker_is_lost_with_what_is_known_about_it,
        test_a_reply_sent_before_the_death_counts,
        test_a_task_that_a_dead_worker_never_took_runs_elsewhere_before_the_others,
    ):
        bench = Bench()
        try:
            bench.core.post("x")
            assert bench.core.attend(None) == [("post", "x")]
            test(bench)
        finally:
            bench.close()
