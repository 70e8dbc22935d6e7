"""Queue between processes, given to them by fork or as an argument of the stdlib's Process."""

import gc
import multiprocessing
import os
import queue
import signal
import threading
from contextlib import contextmanager

import pytest
import queue_work as work
from queue_kinds import HANG_SECONDS, METHODS, Call

from multitask import ShutDown

pytestmark = pytest.mark.shared


@contextmanager
def running(method, target, *args):
    """A Process at work; whatever happens, it is over afterwards."""
    process = multiprocessing.get_context(method).Process(target=target, args=args)
    process.start()
    try:
        yield process
        process.join(HANG_SECONDS)
        assert process.exitcode is not None, "the process hangs"
    finally:
        if process.exitcode is None:
            process.kill()
            process.join()
        process.close()


@contextmanager
def forked(call, *args):
    """A child made by os.fork; ends with 0 if *call* returned."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            call(*args)
            code = 0
        finally:
            os._exit(code)
    done = False
    try:
        yield pid
        status = os.waitpid(pid, 0)[1]
        done = True
        assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    finally:
        if not done:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.parametrize("method", METHODS)
def test_g7_put_ten_megabytes_join_the_producer_then_get(flavour, method):
    q = flavour.queue()
    with running(method, work.put_big, q, 10_000_000) as process:
        process.join(HANG_SECONDS)
        assert process.exitcode == 0
    assert q.get(timeout=0) == b"x" * 10_000_000


@pytest.mark.parametrize("method", METHODS)
def test_there_and_back_in_order(flavour, method):
    there, back = flavour.queue(10), flavour.queue()
    items = [*range(300), b"y" * 300_000, "text", None, {"a": [1.5]}]
    with running(method, work.echo, there, back):
        call = Call(there.put_many, items)
        assert [back.get(timeout=HANG_SECONDS) for _ in items] == items
        call.result()
        there.shutdown()
    assert back.empty()


def test_an_inherited_queue_works_without_further_ado(flavour):
    q = flavour.queue()
    with forked(q.put_many, range(1000)):
        assert [q.get(timeout=HANG_SECONDS) for _ in range(1000)] == list(range(1000))


def test_what_a_process_put_is_there_when_it_was_killed(flavour):
    q = flavour.queue()
    with forked(work.put_and_die, q, b"z" * 1_000_000) as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert q.get(timeout=0) == b"z" * 1_000_000


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_by_another_process_ends_a_wait(flavour, immediate):
    q, bounded = flavour.queue(), flavour.queue(1)
    bounded.put(1)
    getter, putter = Call(q.get).asleep(), Call(bounded.put, 2).asleep()
    with forked(lambda: (q.shutdown(immediate), bounded.shutdown(immediate))):
        for call in (getter, putter):
            with pytest.raises(ShutDown):
                call.result()
    assert q.is_shutdown and bounded.qsize() == (not immediate)


def test_get_on_a_queue_whose_last_producer_died_ends_with_its_timeout(flavour):
    q = flavour.queue()
    with forked(work.put_and_die, q, "last words"):
        assert q.get(timeout=HANG_SECONDS) == "last words"
    with pytest.raises(queue.Empty):
        q.get(timeout=0.2)


def test_get_on_a_queue_whose_last_producer_died_ends_with_shutdown(flavour):
    q = flavour.queue()
    with forked(work.put_and_die, q, "last words"):
        call = Call(list, q)
    call.asleep()
    q.shutdown()
    assert call.result() == ["last words"]


@pytest.mark.parametrize("method", METHODS)
def test_join_waits_for_workers_in_other_processes(flavour, method):
    q, done = flavour.queue(), flavour.queue()
    with running(method, work.work_off, q, done), running(method, work.work_off, q, done):
        q.put_many(range(50))
        q.join(HANG_SECONDS)
        assert sorted(done.get_many()) == [n * 10 for n in range(50)]
        q.shutdown()


def test_close_is_for_one_process(flavour):
    q = flavour.queue()
    with forked(lambda: None if work.close_here(q) else 1 / 0):
        pass
    q.put(1)
    assert q.get() == 1
    q.close()
    with forked(lambda: None if q.closed else 1 / 0):  # a fork copies what the parent said
        pass


@pytest.mark.slow
def test_64_producers_and_64_consumers(flavour):
    q, results = flavour.queue(1000), flavour.queue()
    count, each = 64, 40
    consumers = [_fork(work.consume, q, results) for _ in range(count)]
    producers = [_fork(work.produce, q, number, each) for number in range(count)]
    try:
        _reap(producers)
        q.shutdown()
        taken = dict(results.get(timeout=HANG_SECONDS) for _ in range(count))
        _reap(consumers)
    finally:
        for pid in producers + consumers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert len(taken) == count
    for one in taken.values():
        for number in {number for number, _ in one}:
            mine = [i for n, i in one if n == number]
            assert mine == sorted(mine), "one producer's items came out of order"
    assert sorted(item for one in taken.values() for item in one) == [(n, i) for n in range(count) for i in range(each)]


def _reap(pids):
    while pids:
        status = os.waitpid(pids[-1], 0)[1]
        pids.pop()
        assert os.waitstatus_to_exitcode(status) == 0


def _fork(call, *args):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            call(*args)
            code = 0
        finally:
            os._exit(code)
    return pid


def test_one_producer_and_one_consumer_have_one_order(flavour):
    q = flavour.queue(5)
    with forked(work.produce, q, 0, 2000):
        assert [q.get(timeout=HANG_SECONDS)[1] for _ in range(2000)] == list(range(2000))


def test_a_fork_in_the_midst_of_use_harms_nobody(flavour):
    q = flavour.queue(20)
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            q.put(b"thread")
            q.get()

    calls = [Call(busy) for _ in range(3)]
    back = flavour.queue()
    try:
        for number in range(20):
            # In the child the threads are gone in whatever they did at that moment.
            with forked(lambda n=number: (back.put(n), q.put(b"child"), q.get())):
                assert back.get(timeout=HANG_SECONDS) == number
    finally:
        stop.set()
        for call in calls:
            call.result()
    assert q.empty()


def test_the_memory_of_a_burst_is_given_back(flavour):
    q = flavour.queue()
    burst = 200 << 20
    chunk = b"b" * (1 << 20)
    gc.collect()
    before = _owned()
    for _ in range(burst >> 20):
        q.put(chunk)
    assert _owned() - before > burst // 2, "this cannot see the memory of the queue"
    for _ in range(burst >> 20):
        q.get()
    assert _owned() - before < 16 << 20


def _owned():
    """Bytes of the anonymous files that this process has open (memfds, files without a name)."""
    files = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found = os.stat(int(fd))
            name = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if "memfd:" in name or name.endswith("(deleted)"):
            files[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(files.values())
