"""PortableCore with pipes, its workers' ends driven by hand: what is sent when."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipe_bench import Bench, args_of, has_message, packed

from multitask._engine import clock
from multitask._engine.channels import frames as channel_frames
from multitask._engine.channels import kinds, pipe
from multitask._engine.channels.frames import Frames, frame
from multitask._engine.core import CALL, CANCELLED, CHUNK, FINISHED, GONE, RUNNING, TAKEN_BACK, Options
from multitask._engine.wire import Parcel
from multitask.errors import PoolClosed
from multitask.policies import Priority


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


# --- the journey of a call


def test_a_call_goes_out_and_its_result_comes_back(bench: Bench) -> None:
    end = bench.worker(1)
    task = bench.submit(-3)
    assert not task._settled and bench.core.unfinished == 1
    bench.step()
    assert args_of(end.receive()) == (-3,)
    bench.answer(1, 3)
    bench.step()
    assert task._outcome() == (True, 3)
    assert bench.core.unfinished == 0


def test_an_error_comes_back_as_the_outcome_and_as_an_unread_failure(bench: Bench) -> None:
    end = bench.worker(1)
    task = bench.submit(1)
    bench.step()
    end.receive()
    bench.answer(1, ValueError("no"), kinds.ERROR)
    bench.step()
    assert bench.core.failures == [task] and not task._asked
    ok, error = task._outcome()
    assert not ok and error.args == ("no",)


def test_a_worker_gets_nothing_before_it_said_hello(bench: Bench) -> None:
    end = bench.worker(1, hello=False)
    bench.submit(1)
    bench.step()
    assert not has_message(end)
    end.send(kinds.HELLO)
    assert bench.core.attend(10) == [("ready", 1)]
    assert args_of(end.receive()) == (1,)


def test_each_worker_holds_one_task_and_the_lowest_id_is_first(bench: Bench) -> None:
    second, first = bench.worker(2), bench.worker(1)
    tasks = [bench.submit(number) for number in range(3)]
    bench.step()
    assert args_of(first.receive()) == (0,)
    assert args_of(second.receive()) == (1,)
    assert bench.core.counts() == (1, 2, 2)
    assert [bench.core.running(task) for task in tasks] == [True, True, False]
    bench.answer(2, None)
    bench.step()
    assert args_of(second.receive()) == (2,)
    assert not has_message(first)


def test_a_definition_is_sent_once_to_each_worker_before_the_call(bench: Bench) -> None:
    end = bench.worker(1)
    bench.encoder.known[abs] = 7
    for _ in range(2):
        bench.submit(5)
    bench.step()
    kind, number, name, parcel = end.receive()
    assert (kind, number, name, pickle.loads(parcel.data)) == (kinds.DEFINE, 7, None, abs)
    kind, number, mode, parcel = end.receive()
    assert (kind, number, mode, pickle.loads(parcel.data)) == (kinds.CALL, 7, CALL, ((5,), {}))
    bench.answer(1, 5)
    bench.step()
    assert end.receive()[:2] == (kinds.CALL, 7)


def test_workers_are_told_to_forget_what_is_dead_and_are_told_again_what_they_forgot(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multitask._engine.pipelanes.FORGET_AFTER", 1)
    end = bench.worker(1)
    bench.encoder.known[abs] = 7
    bench.encoder.dead = [7, 8]
    bench.submit(5)
    bench.step()
    assert [end.receive()[0] for _ in range(2)] == [kinds.DEFINE, kinds.CALL]
    assert end.receive() == (kinds.FORGET, [7])
    bench.answer(1, 5)
    bench.submit(6)
    bench.step()
    assert [end.receive()[0] for _ in range(2)] == [kinds.DEFINE, kinds.CALL]


def test_what_cannot_be_encoded_is_settled_at_once_and_its_basket_is_told(bench: Bench) -> None:
    parent, basket = bench.core.group(1)
    task = bench.core.submit(abs, (threading.Lock(),), None, None, CHUNK, basket)
    assert task._settled and not task._outcome()[0]
    bench.step()
    assert parent._settled and bench.core.unfinished == 0
    assert bench.core.failures == [parent]


def test_the_callers_array_may_change_after_submit(bench: Bench) -> None:
    end = bench.worker(1)
    mine = bytearray(b"before")
    bench.submit(pickle.PickleBuffer(mine))
    mine[:] = b"after!"
    bench.step()
    parcel = end.receive()[3]
    assert bytes(pickle.loads(parcel.data, buffers=parcel.buffers)[1][0]) == b"before"


def test_priority_decides_who_goes_first() -> None:
    bench = Bench(policy=Priority())
    try:
        for number, priority in enumerate([0, 5, 1, 5]):
            bench.submit(number, options=Options(priority=priority))
        end = bench.worker(1)
        order = []
        for _ in range(4):
            bench.step()
            order.append(args_of(end.receive())[0])
            bench.answer(1, None)
        assert order == [1, 3, 2, 0]
    finally:
        bench.close()


def test_a_group_is_settled_with_its_members(bench: Bench) -> None:
    bench.worker(1)
    parent, basket = bench.core.group(2)
    for number in range(2):
        bench.core.submit(abs, ([number],), None, None, CHUNK, basket)
    for number in range(2):
        bench.step()
        bench.answer(1, [number])
    bench.step()
    assert parent._outcome() == (True, [0, 1])
    assert bench.core.unfinished == 0


def test_an_empty_group_is_settled_from_the_start(bench: Bench) -> None:
    parent, _ = bench.core.group(0)
    assert parent._outcome() == (True, [])


# --- taking back


def test_a_waiting_task_is_taken_back_and_never_sent(bench: Bench) -> None:
    task, other = bench.submit(1), bench.submit(2)
    assert bench.core.withdraw(task) == TAKEN_BACK
    assert task._status == CANCELLED
    assert bench.core.withdraw(task) == GONE
    end = bench.worker(1)
    assert args_of(end.receive()) == (2,)
    assert bench.core.withdraw(other) == RUNNING
    assert not other._settled
    assert bench.core.unfinished == 1


def test_a_parent_can_be_withdrawn(bench: Bench) -> None:
    parent, _ = bench.core.group(1)
    assert bench.core.withdraw(parent) == TAKEN_BACK
    assert parent._status == CANCELLED and bench.core.unfinished == 0


def test_a_task_that_was_set_aside_can_be_withdrawn(bench: Bench) -> None:
    bench.worker(1)
    task = bench.submit(1, options=Options(retries=1))
    bench.step()
    bench.answer(1, ValueError(), kinds.ERROR)
    bench.step()
    assert bench.core.withdraw(task) == TAKEN_BACK
    bench.core.requeue(task)
    assert bench.core.counts() == (0, 0, 0)


# --- large messages


def test_sending_more_than_the_pipe_holds_does_not_block(bench: Bench) -> None:
    end = bench.worker(1)
    content = os.urandom(1 << 20) * 8
    task = bench.submit(content)
    bench.step()  # returns although nobody reads
    assert bench.core.running(task)
    received: list[Any] = []
    reader = threading.Thread(target=lambda: received.append(end.receive()))
    reader.start()
    while reader.is_alive():
        bench.core.attend(0.01)
    reader.join()
    assert args_of(received[0]) == (content,)


def test_a_large_reply_comes_in_pieces_and_its_buffers_are_writable(bench: Bench) -> None:
    end = bench.worker(1)
    task = bench.submit(1)
    bench.step()
    value = [bytearray(b"x" * (1 << 20)), pickle.PickleBuffer(bytearray(b"y" * (3 << 20)))]
    writer = threading.Thread(target=end.send, args=(kinds.OK, packed(value)))
    writer.start()
    while not task._settled:
        bench.core.attend(0.01)
    writer.join()
    ok, (first, second) = task._outcome()
    assert ok and first == value[0] and bytes(second) == b"y" * (3 << 20)
    assert not memoryview(second).readonly


def test_messages_survive_any_splitting() -> None:
    sent = [
        (kinds.CALL, 3, CHUNK, Parcel(b"data", (memoryview(b"one"), memoryview(b""), memoryview(b"two" * 50)))),
        (kinds.DEFINE, 4, "näme", Parcel(b"")),
        (kinds.DEFINE, 5, None, Parcel(b"x")),
        (kinds.FORGET, [1, 2, 1 << 40]),
        (kinds.STOP,),
        (kinds.BYE, "done"),
        (kinds.OK, Parcel(b"z" * 100_000)),
    ]
    stream = b"".join(bytes(piece) for message in sent for piece in frame(*message))
    for size in (1, 7, 33, 1000, len(stream)):
        frames = Frames()
        for start in range(0, len(stream), size):
            frames.feed(memoryview(stream)[start : start + size])
        assert frames.messages == sent


class NoRoom:
    """bytearray() in a process that has room for so many bytes at once."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, size: int) -> bytearray:
        if size > self.most:
            raise MemoryError
        return bytearray(size)


@pytest.mark.parametrize("content", [b"z" * 300_000, pickle.PickleBuffer(b"z" * 300_000)], ids=["data", "buffer"])
def test_a_result_for_which_there_is_no_room_fails_its_task_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    end = bench.worker(1)
    first, second = bench.submit(1), bench.submit(2)
    bench.step()
    monkeypatch.setattr(channel_frames, "bytearray", NoRoom(200_000), raising=False)
    writer = threading.Thread(target=end.send, args=(kinds.OK, packed(content)))
    writer.start()
    while not first._settled:
        bench.core.attend(0.01)
    writer.join()
    ok, error = first._outcome()
    assert not ok and type(error) is MemoryError and "no room for a message of 300" in str(error)
    bench.step()
    bench.answer(1, "fits")
    while not second._settled:
        bench.core.attend(0.01)
    assert second._outcome() == (True, "fits")


def test_a_size_that_cannot_be_true_ends_the_channel() -> None:
    head = channel_frames.HEAD.pack(kinds.OK, 0, 0, 0, 0, 1 << 60)
    with pytest.raises(ValueError, match="something else wrote"):
        Frames().feed(memoryview(head))


# --- retries and timeouts


def test_a_failure_with_retries_goes_to_the_manager(bench: Bench) -> None:
    end = bench.worker(1)
    task = bench.submit(1, options=Options(retries=2))
    bench.step()
    bench.answer(1, ValueError("once"), kinds.ERROR)
    ((what, failed, wid, raw),) = bench.core.attend(10)
    assert (what, failed, wid) == ("failed", task, 1)
    assert not task._settled and not bench.core.running(task) and bench.core.unfinished == 1
    bench.core.requeue(task)
    bench.step()
    end.receive()
    assert args_of(end.receive()) == (1,)
    bench.answer(1, ValueError("twice"), kinds.ERROR)
    ((_, _, _, raw),) = bench.core.attend(10)
    bench.core.settle(task, FINISHED, False, raw)
    ok, error = task._outcome()
    assert not ok and error.args == ("twice",)


def test_a_task_with_a_timeout_is_announced_and_its_start_is_known(bench: Bench) -> None:
    end = bench.worker(1)
    task = bench.submit(1, options=Options(timeout=5))
    assert bench.core.started(task) is None
    assert bench.step() == [("sent", task, 1)]
    sent = bench.core.started(task)
    assert sent is not None
    end.receive()
    started = bench.core.started(task)
    assert started is not None and started >= sent
    bench.answer(1, 1)
    bench.step()
    assert bench.core.started(task) is None


# --- the end


def test_a_closed_core_takes_no_more_work_and_says_when_it_is_empty(bench: Bench) -> None:
    bench.worker(1)
    bench.submit(1)
    bench.step()
    bench.core.close()
    with pytest.raises(PoolClosed):
        bench.submit(2)
    assert bench.step() == []
    bench.answer(1, 1)
    assert bench.core.attend(None) == [("idle",)]
    assert bench.core.unfinished == 0


def test_disposing_cancels_what_is_left(bench: Bench) -> None:
    bench.worker(1)
    tasks = [bench.submit(number) for number in range(3)]
    bench.step()
    bench.core.dispose()
    assert [task._status for task in tasks] == [CANCELLED] * 3
    assert bench.core.unfinished == 0


def test_a_submit_that_overlaps_the_end_leaves_no_task_behind(bench: Bench) -> None:
    # The submitting thread has passed the look at `closed` when the manager leaves.
    class Slow:
        def __reduce__(self) -> Any:
            bench.core.dispose()
            return (int, ())

    task = bench.submit(Slow())
    assert task._status == CANCELLED
    assert bench.core.unfinished == 0


def test_posts_arrive_in_order(bench: Bench) -> None:
    bench.core.post(1)
    bench.core.post(2)
    assert bench.core.attend(None) == [("post", 1), ("post", 2)]


def test_attend_returns_when_the_time_is_over(bench: Bench) -> None:
    before = clock.monotonic()
    assert bench.core.attend(0.02) == []
    assert clock.monotonic() - before >= 0.02


def test_a_submit_wakes_a_sleeping_manager_and_a_reply_the_caller(bench: Bench) -> None:
    end = bench.worker(1)
    over = threading.Event()

    def manage() -> None:
        while not over.is_set():
            bench.core.attend(None)

    def work() -> None:
        for _ in range(200):
            end.receive()
            end.send(kinds.OK, packed(1))

    threads = [threading.Thread(target=manage), threading.Thread(target=work)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        assert bench.core.wait(bench.submit(1), 20)
    over.set()
    bench.core.post(None)
    for thread in threads:
        thread.join()


def test_the_child_notices_that_its_parent_is_gone(bench: Bench) -> None:
    end = bench.worker(1)
    bench.core.dispose()
    with pytest.raises(EOFError):
        end.receive()
    with pytest.raises(BrokenPipeError):
        end.send(kinds.HELLO)


def test_making_a_channel_without_descriptors_left_leaks_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("multitask._engine.channels.board.make", refuse)
    fds = Path("/proc/self/fd")
    before = len(list(fds.iterdir())) if fds.exists() else 0
    with pytest.raises(OSError, match="Too many"):
        pipe.make()
    assert not fds.exists() or len(list(fds.iterdir())) == before


def test_a_core_inherited_through_a_fork_refuses_instead_of_hanging(bench: Bench) -> None:
    end = bench.worker(1)
    task = bench.submit(1)
    bench.core.disown()
    with pytest.raises(PoolClosed, match="belongs to the parent"):
        bench.core.wait(task, None)
    with pytest.raises(PoolClosed, match="belongs to the parent"):
        bench.submit(2)
    with pytest.raises(EOFError):
        end.receive()


def test_pending_tells_every_task_that_is_not_settled(bench: Bench) -> None:
    bench.worker(1)
    failed, running, waiting, gone = (bench.submit(number, options=Options(retries=1)) for number in range(4))
    bench.step()
    bench.answer(1, ValueError(), kinds.ERROR)
    bench.step()
    bench.core.withdraw(gone)
    new = bench.submit(4)
    assert set(bench.core.pending()) == {failed, running, waiting, new}
