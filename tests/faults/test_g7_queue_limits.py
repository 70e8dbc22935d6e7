"""G7, the queue in shared memory: limits of memory and descriptors, stopped holders, crowds, forks, timeouts."""

from __future__ import annotations

import gc
import os
import queue as stdlib
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from multitask import _native

if not _native.available:
    pytest.skip(_native.why_not, allow_module_level=True)

from faults import stopped, wait_until
from ring_rounds import killed, start

from multitask._native.ring import RingQueue, _kill_at, _shut_down

MIB = 1 << 20
EXACT_SECONDS = 0.05


def program(code: str, seconds: float = 100) -> str:
    """Run *code* as a program of its own, which must succeed; what it prints."""
    start = "import os, resource, sys, time\nfrom multitask._native.ring import RingQueue\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def memory_of(queue: RingQueue) -> int:
    return os.fstat(queue.fd).st_blocks * 512


# --- time ---------------------------------------------------------------------------------------------------


def test_put_on_a_full_queue_gives_up_in_time() -> None:
    queue = RingQueue(1)
    queue.put(1)
    begun = time.monotonic()
    with pytest.raises(stdlib.Full):
        queue.put(2, timeout=2)
    assert 2 <= time.monotonic() - begun < 2 + EXACT_SECONDS


@pytest.mark.parametrize(("step", "side"), [(4, "put"), (12, "get")])
def test_a_stopped_holder_of_the_lock_breaks_nobody_s_timeout(step: int, side: str) -> None:
    """A process stops with the lock of one side; the other side goes on, and timeouts are kept."""
    queue = RingQueue()
    queue.put(b"x" * 2000)
    holder = start(lambda: queue.put(1) if side == "put" else queue.get(), -step)
    try:
        wait_until(lambda: stopped(holder))
        begun = time.monotonic()
        with pytest.raises(stdlib.Full if side == "put" else stdlib.Empty):
            queue.put(2, timeout=0.5) if side == "put" else queue.get(timeout=0.5)
        assert 0.5 <= time.monotonic() - begun < 0.5 + EXACT_SECONDS
        begun = time.monotonic()
        with pytest.raises(stdlib.Full if side == "put" else stdlib.Empty):
            queue.put_nowait(2) if side == "put" else queue.get_nowait()
        assert time.monotonic() - begun < 0.25
        if side == "put":
            assert queue.get(timeout=1) == b"x" * 2000
        else:
            queue.put(3, timeout=1)
    finally:
        os.kill(holder, signal.SIGCONT)
        assert not killed(holder)
    assert queue.get(timeout=1) in (1, 3)


def test_ctrl_c_ends_a_wait_for_a_lock_that_is_never_given_back() -> None:
    queue = RingQueue()
    holder = start(lambda: queue.put(1), -4)
    try:
        wait_until(lambda: stopped(holder))
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(InterruptedError("alarm")))
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        begun = time.monotonic()
        with pytest.raises(InterruptedError):
            queue.put(2)
        assert time.monotonic() - begun < 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.kill(holder, signal.SIGCONT)
        assert not killed(holder)


def test_get_of_a_queue_whose_last_producer_died() -> None:
    queue = RingQueue()
    assert killed(start(lambda: queue.put("never"), 3))
    begun = time.monotonic()
    with pytest.raises(stdlib.Empty):
        queue.get(timeout=0.2)
    assert time.monotonic() - begun < 0.2 + EXACT_SECONDS
    waiter = threading.Thread(target=queue.shutdown)
    waiter.start()
    with pytest.raises(_shut_down()):
        queue.get()
    waiter.join()


# --- crowds -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sixty_four_producers_and_sixty_four_consumers() -> None:
    queue, results = RingQueue(100), RingQueue()

    def produce(which: int) -> None:
        for number in range(100):
            queue.put((which, number) if number % 10 else (which, number, b"z" * 5000))

    def consume() -> None:
        last: dict[int, int] = {}
        count = 0
        while True:
            try:
                which, number, *_ = queue.get()
            except _shut_down():
                break
            assert last.get(which, -1) < number, "one producer's messages came out of order"
            last[which] = number
            count += 1
        results.put(count)

    consumers = [start(consume) for _ in range(64)]
    producers = [start(lambda which=which: produce(which)) for which in range(64)]
    assert sum(map(killed, producers)) == 0
    queue.shutdown()
    assert sum(map(killed, consumers)) == 0
    assert sum(results.get_many(64)) == 6400
    assert queue.put_count == queue.got_count == 6400


def test_a_fork_in_the_middle_of_use() -> None:
    """Threads put and get all the while; children of forks at any moment use the same queue."""
    queue, back = RingQueue(), RingQueue()
    ending = threading.Event()

    def churn() -> None:
        while not ending.is_set():
            queue.put(b"x" * 70_000)
            queue.get()

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(60):
            child = start(lambda number=number: (queue.put(number), back.put(type(queue.get()).__name__)))
            assert not killed(child)
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    names = back.get_many(60)
    assert len(names) == 60 and set(names) <= {"int", "bytes"}
    left = queue.get_many() if queue.qsize() else []
    assert len(left) == 0 and queue.put_count == queue.got_count


# --- memory, descriptors --------------------------------------------------------------------------------------


def test_a_burst_of_one_gibibyte_is_given_back() -> None:
    queue = RingQueue()
    queue.put("warm")
    queue.get()
    before = memory_of(queue)
    block = os.urandom(MIB)
    for _ in range(900):
        queue.put(block)
    for _ in range(20_000):
        queue.put(block[:5000])
    queue.put(block * 24)
    assert memory_of(queue) > 1000 * MIB
    for _ in range(900):
        assert queue.get() == block
    for _ in range(20_000):
        assert queue.get() == block[:5000]
    assert queue.get() == block * 24
    assert memory_of(queue) <= before + 128 * 1024, "more is left than a small ring"


def test_an_address_space_that_ends_is_a_memory_error_in_put() -> None:
    out = program("""
        queue = RingQueue()
        resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
        block, count = b"x" * (1 << 20), 0
        try:
            while True:
                queue.put(block)
                count += 1
        except MemoryError:
            pass
        small = 0
        try:
            while True:
                queue.put(b"y" * 5000)
                small += 1
        except MemoryError:
            pass
        assert queue.qsize() == count + small
        for _ in range(count):
            assert queue.get() == block
        for _ in range(small):
            assert queue.get() == b"y" * 5000
        queue.put("usable")
        assert queue.get() == "usable"
        print(count)
    """)
    assert 100 < int(out) < 400


def memory_group() -> Path | None:
    """A control group of this test's own in which memory can be limited, or None where that is not allowed."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            folder = Path("/sys/fs/cgroup/memory" + path) / f"multitask-test-{os.getpid()}"
        elif number == "0" and controllers == "":
            folder = Path("/sys/fs/cgroup" + path) / f"multitask-test-{os.getpid()}"
        else:
            continue
        try:
            folder.mkdir()
        except OSError:
            continue
        if any((folder / name).exists() for name in ("memory.limit_in_bytes", "memory.max")):
            return folder
        folder.rmdir()
    return None


def test_a_control_group_s_limit_is_a_memory_error_in_put() -> None:
    group = memory_group()
    if group is None:
        pytest.skip("no control group of memory can be made here")
    try:
        version_1 = (group / "memory.limit_in_bytes").exists()
        (group / ("memory.limit_in_bytes" if version_1 else "memory.max")).write_text(str(300 * MIB))
        out = program(f"""
            open("{group}/cgroup.procs", "w").write(str(os.getpid()))
            queue = RingQueue()
            block, count = b"x" * (1 << 20), 0
            try:
                while True:
                    queue.put(block)
                    count += 1
            except MemoryError:
                pass
            for _ in range(count):
                assert queue.get() == block
            queue.put("usable")
            assert queue.get() == "usable"
            print(count)
        """)
        assert 150 < int(out) < 300
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text().strip())
        group.rmdir()


@pytest.mark.slow
def test_a_hundred_thousand_queues_under_a_limit_of_descriptors() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        for number in range(100_000):
            queue = RingQueue()
            if number % 100 == 0:
                queue.put(number)
                assert queue.get() == number
        del queue
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_queue_in_a_cycle_is_freed() -> None:
    class Holder(RingQueue):
        pass

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        one = Holder()
        one.itself = one  # type: ignore[attr-defined]
    del one
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_descriptor_left_is_an_error_and_nothing_else() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    queue = RingQueue()
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1, limits[1]))
    try:
        with pytest.raises(OSError):
            kept = [RingQueue() for _ in range(100)]
            del kept
        queue.put(b"z" * MIB * 3)
        assert len(queue.get()) == 3 * MIB
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_kill_points_are_off() -> None:
    """What the others switch on in their children is off here: a leak of it would end this process."""
    _kill_at(0)
    queue = RingQueue()
    queue.put(1)
    assert queue.get() == 1
