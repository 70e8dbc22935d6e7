"""Process: the standard library's, whose results, errors and ends are not lost; under every start method."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from typing import Any

import pytest

import multitask
from multitask import (
    CannotTravel,
    Counter,
    NotSupported,
    Process,
    Queue,
    WorkerLost,
    active_children,
    current_process,
    parent_process,
)
from multitask._engine.workers.process import start_methods

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=start_methods())
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def started(method: str) -> Any:
    made = []

    def start(*args: Any, **kwargs: Any) -> Process:
        process = Process(*args, start_method=method, **kwargs)
        process.start()
        made.append(process)
        return process

    yield start
    for process in made:
        try:
            process.kill()
        except ValueError:  # closed
            continue
        process.join()
        process.close()
    made.clear()


class TwoNeeded(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.first, self.second = first, second


def fail() -> None:
    raise TwoNeeded(1, 2)


def hold(queue: Any) -> None:
    queue.put(os.getpid())
    while True:  # in slices: one long sleep does not hear a signal that comes just before it
        time.sleep(0.05)


def who() -> tuple[int, str, int]:
    above = parent_process()
    assert above is not None
    return os.getpid(), current_process().name, above.pid or 0


class Doubling(Process):
    def __init__(self, number: int, **more: Any) -> None:
        super().__init__(name="doubling", **more)
        self.number = number

    def run(self) -> int:
        return 2 * self.number


class Oddly(Process):
    def run(this) -> str:  # noqa: N805  # its first parameter may be called anything
        return this.name


class Forgetful(Process):
    def __init__(self) -> None:
        self.number = 1


def test_the_result_is_what_the_target_returned(started: Any) -> None:
    process = started(target=divmod, args=(17, 5))
    assert process.result(30) == (3, 2)
    assert (process.result(), process.exception(), process.exitcode) == ((3, 2), None, 0)
    assert started(target=int, args=["ff"], kwargs={"base": 16}).result() == 255
    assert started().result() is None


def test_it_is_another_process_with_a_name_and_a_parent(started: Any) -> None:
    process = started(target=who, name="nina")
    assert process.result() == (process.pid, "nina", os.getpid())
    assert parent_process() is None


def test_the_result_of_a_subclass_is_what_its_run_returned(method: str) -> None:
    for process, value in ((Doubling(21, start_method=method), 42), (Oddly(start_method=method, name="odd"), "odd")):
        process.start()
        assert process.result() == value


def test_a_lambda_and_what_it_closes_over_travel(started: Any) -> None:
    number = 20
    assert started(target=lambda more: number + more, args=(1,)).result() == 21


def test_a_result_of_any_size_does_not_hang_join(started: Any) -> None:
    process = started(target=bytes, args=(30_000_000,))
    process.join()
    assert process.exitcode == 0
    assert process.result() == bytes(30_000_000)


def test_a_large_argument_arrives(started: Any) -> None:
    assert started(target=len, args=(bytes(30_000_000),)).result() == 30_000_000


def test_an_error_is_had_with_the_traceback_of_the_process(started: Any, capfd: pytest.CaptureFixture[str]) -> None:
    process = started(target=fail)
    error = process.exception()
    assert (type(error), error.first, error.second) == (TwoNeeded, 1, 2)
    assert "in fail" in str(error.__cause__)
    for _ in range(2):
        with pytest.raises(TwoNeeded, match="1 and 2"):
            process.result()
    assert process.exitcode == 1
    assert "TwoNeeded: 1 and 2" in capfd.readouterr().err  # printed by the process, as in the standard library


@pytest.mark.parametrize("code", [None, 0])
def test_a_polite_exit_has_no_result_and_is_no_error(started: Any, code: int | None) -> None:
    process = started(target=sys.exit, args=(code,))
    assert (process.result(), process.exitcode) == (None, 0)


def test_an_exit_with_a_code_is_an_error(started: Any) -> None:
    process = started(target=sys.exit, args=(3,))
    assert isinstance(process.exception(), SystemExit)
    assert process.exitcode == 3


def test_one_that_was_killed_says_so(started: Any) -> None:
    queue: Any = Queue()
    process = started(target=hold, args=(queue,), name="held")
    assert queue.get(timeout=30) == process.pid
    process.kill()
    with pytest.raises(WorkerLost, match="the process held was killed by SIGKILL before it had a result") as caught:
        process.result()
    assert (caught.value.worker, caught.value.pid, caught.value.exitcode) == ("held", process.pid, -signal.SIGKILL)
    assert not process.is_alive()


def test_one_that_ended_without_a_word_says_so(started: Any) -> None:
    with pytest.raises(WorkerLost, match="ended with exit code 0 before it had a result"):
        started(target=os._exit, args=(0,)).result()


def test_a_result_that_was_written_counts_though_the_process_is_killed_later(started: Any) -> None:
    queue: Any = Queue()

    def leave_a_thread() -> str:
        threading.Thread(target=hold, args=(queue,)).start()
        return "written"

    process = started(target=leave_a_thread)
    queue.get(timeout=30)
    while process._launched()._box >= 0 and os.pread(process._launched()._box, 1, 0) in (b"", b"\0", b"\1"):
        os.sched_yield()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert process.result() == "written"


def test_a_wait_that_ran_out_is_a_timeout_and_harms_nothing(started: Any) -> None:
    queue: Any = Queue()
    gate: Any = Queue()
    process = started(target=lambda: (queue.put(1), gate.get())[1])
    queue.get(timeout=30)
    for ask in (process.result, process.exception):
        with pytest.raises(multitask.TimeoutError, match="still runs after 0 s"):
            ask(0)
    gate.put("done")
    assert process.result() == "done"


def test_what_cannot_travel_is_named_and_nothing_was_started(method: str) -> None:
    if method == "fork":
        pytest.skip("what is inherited need not travel")
    process = Process(target=print, args=({"key": threading.Lock()},), start_method=method)
    before = active_children()
    with pytest.raises(CannotTravel, match="key"):
        process.start()
    assert active_children() == before
    assert not process.is_alive()


def test_a_result_that_cannot_travel_is_heard_of_by_who_asks(started: Any) -> None:
    process = started(target=threading.Lock)
    process.join()
    assert process.exitcode == 0
    with pytest.raises(CannotTravel):
        process.result()


def test_queues_and_shared_memory_are_arguments(started: Any) -> None:
    queue: Any = Queue()
    counter = Counter(0)
    processes = [started(target=lambda: (counter.add(1), queue.put(1))) for _ in range(3)]
    for process in processes:
        process.join()
    assert (counter.value, queue.qsize()) == (3, 3)


def test_processes_nest(method: str, started: Any) -> None:
    def outer() -> int:
        inner = Process(target=abs, args=(-7,), start_method=method)
        inner.start()
        return int(inner.result()) + len(active_children())

    assert started(target=outer).result() == 7


def test_a_pool_works_in_a_process_and_a_process_in_a_pool(method: str, started: Any) -> None:
    def squares() -> list[int]:
        with multitask.Pool(2, start_method=method) as pool:
            return pool.map(lambda n: n * n, range(4))

    assert started(target=squares).result() == [0, 1, 4, 9]

    def in_a_process(number: int) -> int:
        process = Process(target=abs, args=(number,), start_method=method)
        process.start()
        return int(process.result())

    with multitask.Pool(1, start_method=method) as pool:
        assert pool.apply(in_a_process, (-3,)) == 3


def test_terminate_with_grace_takes_the_whole_tree(started: Any) -> None:
    queue: Any = Queue()

    def family() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = os.fork()
        if child == 0:
            os.setsid()
            hold(queue)
        queue.put(child)
        time.sleep(3600)

    process = started(target=family)
    pids = {queue.get(timeout=30) for _ in range(2)}
    assert len(pids) == 1
    pidfd = os.pidfd_open(pids.pop())
    try:
        process.terminate(grace=0.05)
        assert process.exitcode == -signal.SIGKILL
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)


def test_a_forgotten_init_says_what_to_write() -> None:
    process = Forgetful()
    for call in (process.start, process.join, process.is_alive, process.result, process.terminate, process.close):
        with pytest.raises(
            RuntimeError, match=r"Forgetful.__init__ has not called Process's\n.*super\(\).__init__\(\)"
        ):
            call()
    assert "without" in repr(process)


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"target": len, "args": 5}, TypeError, r"write Process\(target=len, args=\(5,\)\)"),
        ({"target": 5}, TypeError, "target must be a callable, not 5"),
        ({"target": len, "kwargs": 5}, TypeError, "a mapping"),
        ({"start_method": "spoon"}, ValueError, "start_method must be one of"),
        ({"lifetime": "long"}, ValueError, "lifetime must be one of joined, bound"),
        ({"lifetime": "detached"}, NotSupported, "not built yet"),
    ],
)
def test_what_is_wrong_is_refused_at_the_door(arguments: dict[str, Any], kind: Any, says: str) -> None:
    with pytest.raises(kind, match=says):
        Process(**arguments)


def test_a_daemon_is_bound_and_others_are_joined() -> None:
    assert [Process().lifetime, Process(daemon=True).lifetime] == ["joined", "bound"]
    assert [Process(lifetime="bound").lifetime, Process(daemon=True, lifetime="joined").lifetime] == ["bound", "joined"]


def test_ctrl_c_ends_a_join_and_the_process_goes_on(started: Any) -> None:
    queue: Any = Queue()
    process = started(target=hold, args=(queue,))
    queue.get(timeout=30)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        timer.start()
        process.join()
    timer.join()
    assert process.is_alive()


def test_it_hears_sigint_like_any_program(started: Any) -> None:
    queue: Any = Queue()
    process = started(target=hold, args=(queue,))
    os.kill(queue.get(timeout=30), signal.SIGINT)
    assert isinstance(process.exception(30), KeyboardInterrupt)


def test_two_hundred_at_once(method: str) -> None:
    many = 200 if method == "fork" else 40 if method == "forkserver" else 8
    processes = [Process(target=abs, args=(-n,), start_method=method) for n in range(many)]
    for process in processes:
        process.start()
    assert [process.result() for process in processes] == list(range(many))
    assert active_children() == []


def test_what_it_has_put_into_a_queue_of_multiprocessing_is_not_lost(method: str, started: Any) -> None:
    context = multiprocessing.get_context(method)
    for _ in range(10):
        queue = context.Queue()
        process = started(target=queue.put, args=("put",))
        process.join()
        assert queue.get(timeout=30) == "put"
        queue.close()
        queue.join_thread()
