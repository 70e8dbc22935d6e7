"""The queue in shared memory from Python, within one process: values, many, sizes, ends. Deaths are in tests/faults."""

from __future__ import annotations

import array
import gc
import os
import queue as stdlib
import random
import threading
import time
import weakref
from collections import deque

import numpy as np
import pytest

from multitask import _native

if not _native.available:
    pytest.skip(_native.why_not, allow_module_level=True)

from multitask._native.ring import RingQueue, _shut_down
from multitask.errors import CannotTravel

VALUES = [
    None, True, False, 0, -129, 2**31, -(2**63), 2**64, 1.5, "", "a", "ü" * 10, "x" * 5000, "\ud800", b"", b"abc",
    b"z" * 1025, b"z" * 70_000, b"q" * 3_000_000, [], [1, [2]], (1, ("a", b"c", None)), {"a": 1}, {1, 2}, range(5),
    bytearray(b"qq"), "long" * 100_000, {"deep": [{"er": (1, 2)}] * 3}, array.array("d", range(10)), 1j, Ellipsis,
]  # fmt: skip


class Faulty:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self) -> object:
        return (int, ("not a number",))


class Unpicklable:
    def __reduce__(self) -> object:
        raise TypeError("never")


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}")
def test_a_value_comes_out_as_a_copy(value: object) -> None:
    queue = RingQueue()
    queue.put(value)
    assert queue.qsize() == 1
    got = queue.get()
    assert got == value and type(got) is type(value)
    assert queue.put_many([value, value]) == 2
    assert queue.get_many() == [value, value]
    assert queue.empty()


def test_all_values_one_after_the_other() -> None:
    queue = RingQueue()
    for _ in range(3):
        for value in VALUES:
            queue.put(value)
        assert [queue.get() for _ in VALUES] == VALUES


@pytest.mark.parametrize("size", [3, 1000, 300_000])
def test_arrays_come_out_writable_and_share_what_they_shared(size: int) -> None:
    queue = RingQueue()
    one = np.arange(size, dtype=np.float64)
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    queue.put([one, one, fortran, one[::2]])
    first, second, third, fourth = queue.get()
    assert first is second and (first == one).all() and first.flags.writeable
    assert size <= 1000 or first.ctypes.data % 64 == 0  # the small ones lie in the pickle
    assert (third == fortran).all() and third.flags.f_contiguous and (fourth == one[::2]).all()
    assert one.flags.writeable and not np.shares_memory(first, one)


def test_what_cannot_be_pickled_is_an_error_in_put_and_nothing_else() -> None:
    queue = RingQueue()
    for bad in (Unpicklable(), threading.Lock(), [1, Unpicklable()]):
        with pytest.raises(CannotTravel):
            queue.put(bad)
    assert queue.empty() and queue.put_count == 0
    with pytest.raises(TypeError) as error:
        queue.put_many([1, 2, Unpicklable(), 3])
    assert error.value.done == 2 and queue.get_many() == [1, 2]  # type: ignore[attr-defined]


def test_what_cannot_be_unpickled_is_an_error_in_get_and_gone() -> None:
    queue = RingQueue()
    queue.put(Faulty())
    queue.put("next")
    with pytest.raises(CannotTravel):
        queue.get()
    assert queue.get() == "next" and queue.empty()
    queue.put_many([1, Faulty(), {"two": 2}, Faulty(), b"x" * 100_000])
    with pytest.raises(CannotTravel) as error:
        queue.get_many()
    assert error.value.items == [1, {"two": 2}, b"x" * 100_000]  # type: ignore[attr-defined]
    assert len(error.value.__notes__) == 1 and queue.empty()


def test_a_queue_against_a_plain_line() -> None:
    chance = random.Random(5)
    queue, line = RingQueue(50), deque[object]()
    for _ in range(30_000):
        which = chance.randrange(6)
        if which == 0:
            items = [chance.choice(VALUES) for _ in range(chance.randrange(8))]
            try:
                queue.put_many(items, block=False)
                line.extend(items)
            except stdlib.Full as error:
                line.extend(items[: error.done])  # type: ignore[attr-defined]
        elif which < 3:
            item = chance.choice(VALUES) if chance.randrange(3) else chance.randrange(1000)
            if len(line) < 50:
                queue.put(item, timeout=0)
                line.append(item)
            else:
                with pytest.raises(stdlib.Full):
                    queue.put_nowait(item)
        elif which == 3 and line:
            most = chance.choice([None, 1, 3])
            got = queue.get_many(most, block=False)
            assert got == [line.popleft() for _ in range(len(line) if most is None else min(most, len(line)))]
        elif line:
            assert queue.get(False) == line.popleft()
        else:
            with pytest.raises(stdlib.Empty):
                queue.get_nowait()
            with pytest.raises(stdlib.Empty):
                queue.get_many(block=False)
        assert queue.qsize() == len(line) and queue.empty() == (not line) and queue.full() == (len(line) == 50)


def test_an_iterator_that_blocks_holds_back_nothing_that_it_gave() -> None:
    queue, gate = RingQueue(), threading.Event()

    def slow():  # type: ignore[no-untyped-def]
        yield 1
        yield 2
        gate.wait(20)
        yield 3

    thread = threading.Thread(target=queue.put_many, args=(slow(),))
    thread.start()
    assert [queue.get(timeout=10), queue.get(timeout=10)] == [1, 2]
    gate.set()
    assert queue.get(timeout=10) == 3
    thread.join()


def test_put_many_waits_for_room_and_says_how_far_it_came() -> None:
    queue = RingQueue(10)
    with pytest.raises(stdlib.Full) as error:
        queue.put_many(range(100), timeout=0.05)
    assert error.value.done == 10 == queue.qsize()  # type: ignore[attr-defined]
    thread = threading.Thread(target=queue.put_many, args=(range(10, 500),))
    thread.start()
    assert [queue.get(timeout=10) for _ in range(500)] == list(range(500))
    thread.join()


def test_get_many_takes_what_is_there_and_waits_for_the_first_only() -> None:
    queue = RingQueue()
    queue.put_many(range(1000))
    assert queue.get_many(10) == list(range(10))
    assert queue.get_many() == list(range(10, 1000))
    timer = threading.Timer(0.05, queue.put, ("late",))
    timer.start()
    assert queue.get_many() == ["late"]
    timer.join()
    with pytest.raises(stdlib.Empty):
        queue.get_many(timeout=0.01)
    for most in (0, -1):
        with pytest.raises(ValueError):
            queue.get_many(most)
    queue.shutdown()
    with pytest.raises(_shut_down()):
        queue.get_many()


@pytest.mark.parametrize("timeout", [0, -1, -0.5, 0.05])
def test_time_runs_out(timeout: float) -> None:
    queue = RingQueue(1)
    with pytest.raises(stdlib.Empty):
        queue.get(timeout=timeout)
    assert not queue.wait_readable(timeout)
    queue.put(1)
    with pytest.raises(stdlib.Full):
        queue.put(2, timeout=timeout)
    assert not queue.wait_writable(timeout) and queue.wait_readable(timeout)
    with pytest.raises(TypeError):
        queue.get(timeout="soon")  # type: ignore[arg-type]
    assert queue.qsize() == 1


def test_those_who_sleep_are_woken_one_for_each_message() -> None:
    queue, got = RingQueue(), []
    threads = [threading.Thread(target=lambda: got.append(queue.get(timeout=20))) for _ in range(5)]
    for thread in threads:
        thread.start()
    while queue._waiting()[0] < 5:
        time.sleep(0.001)
    queue.put_many(range(5))
    for thread in threads:
        thread.join(20)
    assert sorted(got) == list(range(5)) and queue._waiting() == (0, 0)


def test_garbage_that_is_collected_in_the_middle_may_use_the_queue() -> None:
    """No Python code runs while a lock is held, so a __del__ finds the lock free."""
    queue, ran = RingQueue(), []

    class Garbage:
        def __del__(self) -> None:
            queue.put(("from", "garbage"), timeout=5)
            ran.append(queue.get(timeout=5))

    thresholds = gc.get_threshold()
    gc.set_threshold(20)
    try:
        for _ in range(100):
            queue.put([tuple(range(25))] * 40)  # plain, and enough tuples of a kind that is not kept for later use
            made = Garbage()
            made.itself = made  # type: ignore[attr-defined]
            del made
            ran.append(queue.get(timeout=5))
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert len(ran) == 200 and queue.empty()


def test_task_done_and_join() -> None:
    from multitask.errors import TimeoutError as Late

    queue = RingQueue()
    queue.join()
    queue.put_many(range(3))
    with pytest.raises(Late):
        queue.join(0.01)
    queue.get_many()
    queue.task_done(2)
    timer = threading.Timer(0.05, queue.task_done)
    timer.start()
    queue.join(20)
    timer.join()
    for count in (1, 5):
        with pytest.raises(ValueError, match="too many times"):
            queue.task_done(count)
    with pytest.raises(ValueError):
        queue.task_done(0)


def test_shutdown_lets_out_and_nothing_in() -> None:
    queue = RingQueue(3)
    queue.put_many(range(3))
    errors: list[BaseException] = []

    def refused() -> None:
        try:
            queue.put("never")
        except _shut_down() as error:
            errors.append(error)

    thread = threading.Thread(target=refused)
    thread.start()
    while not queue._waiting()[1]:
        time.sleep(0.001)
    assert not queue.is_shutdown
    queue.shutdown()
    thread.join(20)
    assert len(errors) == 1 and queue.is_shutdown
    assert [queue.get(), *queue.get_many()] == [0, 1, 2]
    for call in (queue.get, queue.get_nowait, queue.get_many, lambda: queue.put(1), lambda: queue.put_many([1])):
        with pytest.raises(_shut_down()):
            call()
    assert queue.wait_readable() and queue.wait_writable()
    queue.shutdown()


def test_immediate_shutdown_drops_what_is_left() -> None:
    queue = RingQueue()
    queue.put_many([b"x" * 100_000] * 30)
    queue.put(b"y" * 3_000_000)
    queue.get()
    queue.task_done()
    queue.shutdown(immediate=True)
    queue.join(5)
    assert queue.qsize() == 0 and queue.put_count == queue.got_count == 31
    with pytest.raises(_shut_down()):
        queue.get()
    assert os.fstat(queue.fd).st_blocks * 512 < 200_000


def test_close_is_for_this_object_only() -> None:
    queue = RingQueue()
    other = RingQueue._attach(os.dup(queue.fd))
    queue.put(1)
    queue.close()
    assert queue.closed and not other.closed
    for call in (lambda: queue.put(1), queue.get, queue.get_many, lambda: queue.put_many([1]), queue.get_nowait):
        with pytest.raises(ValueError, match="is closed"):
            call()
    assert queue.qsize() == 1 and other.get() == 1
    queue.task_done()
    queue.join(1)
    queue.join_thread()
    queue.cancel_join_thread()
    queue.close()


def test_attach_takes_a_queue_s_descriptor_and_no_other() -> None:
    first = RingQueue(7)
    second = RingQueue._attach(os.dup(first.fd))
    assert second.maxsize == 7
    for number in range(50):
        first.put(bytes(number * 1000))
        assert len(second.get()) == number * 1000
    del first
    second.put("still")
    assert second.get() == "still"
    fd = os.memfd_create("other")
    try:
        for size in (0, 100_000):
            os.ftruncate(fd, size)
            with pytest.raises(ValueError, match="no queue's"):
                RingQueue._attach(fd)
    finally:
        os.close(fd)
    with pytest.raises(OSError):
        RingQueue._attach(10_000)
    with pytest.raises(ValueError, match="__init__"):
        RingQueue.__new__(RingQueue).put(1)
    with pytest.raises(RuntimeError):
        second.__init__()  # type: ignore[misc]


def test_a_queue_goes_with_its_last_reference() -> None:
    queue = RingQueue()
    fd, gone = queue.fd, []
    weakref.finalize(queue, gone.append, True)
    array_of_it = None
    queue.put(np.arange(100_000))
    array_of_it = queue.get()
    del queue
    assert gone == [True]
    with pytest.raises(OSError):
        os.fstat(fd)
    assert array_of_it.sum() == 4999950000


@pytest.mark.parametrize("maxsize", [0, None, -1, 5])
def test_maxsize(maxsize: int | None) -> None:
    queue = RingQueue(maxsize)
    assert queue.maxsize == max(maxsize or 0, 0)
    queue.put_many(range(5))
    assert queue.full() == (maxsize == 5)
    with pytest.raises(TypeError):
        RingQueue("many")  # type: ignore[arg-type]


def test_the_readme_draws_the_control_page_as_it_is(tmp_path: object) -> None:
    """Its offsets, and every kill point."""
    import re
    import subprocess
    from pathlib import Path

    native = Path(_native.__file__).parent
    text = (native / "QUEUE.md").read_text()
    code = '#include "ringwait.h"\n#include <stddef.h>\nint main(void){printf("%zu %zu %zu %zu %zu %zu"'
    names = ["items", "done", "put_lock", "put_word", "get_lock", "get_word"]
    code += "".join(f", offsetof(mtq_control, {name})" for name in names) + ");}"
    source = Path(str(tmp_path)) / "layout.c"
    source.write_text(code)
    binary = source.with_suffix("")
    subprocess.run(["cc", "-std=gnu11", "-w", "-pthread", f"-I{native}", str(source), "-o", str(binary)], check=True)
    real = subprocess.run([binary], capture_output=True, text=True, check=True).stdout.split()
    drawn = text[text.index("## Memory") : text.index("**A ring**")].split()
    assert [number for number in real if number not in drawn] == [], real
    code = "".join((native / name).read_text() for name in ("ring.h", "ringwait.h"))
    points = {int(n) for n in re.findall(r"MT_STEP\((\d+)\)", code)}
    table = text[text.index("## Who dies where") : text.index("**Stopped by")]
    named = {int(n) for n in re.findall(r"\b(\d+) [a-z`]", table)}
    assert points | {6, 18} <= named, sorted(points - named)
