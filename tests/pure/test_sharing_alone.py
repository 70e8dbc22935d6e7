"""Value, Array, Counter and share() within one process, on both cores."""

from __future__ import annotations

import gc
import multiprocessing
import operator
import os
import pickle
import subprocess
import sys
import threading
import weakref

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask import Array, CannotTravel, Counter, RawArray, Shared, Value, _native, share

LOW, HIGH = -(1 << 63), (1 << 63) - 1


@pytest.fixture(params=["native", "portable"])
def core(request, monkeypatch):
    if request.param == "native" and not _native.available:
        pytest.skip(_native.why_not)
    if request.param == "portable":
        monkeypatch.setattr(_native, "available", False)
    return request.param


# --- Counter --------------------------------------------------------------------------------------------------------


def test_a_counter_counts(core):
    counter = Counter(5)
    assert isinstance(counter, Counter)
    assert counter.add() == 6 and counter.add(-10) == -4 and counter.get() == counter.value == int(counter) == -4
    counter.set(7)
    assert counter.compare_and_set(7, 9) and not counter.compare_and_set(7, 1) and counter.get() == 9
    same = counter
    counter += 3
    counter -= 2
    assert counter is same and counter.get() == 10
    counter.value = 3
    assert repr(counter) == "<Counter 3>" and operator.index(counter) == 3
    assert Counter().get() == 0


@pytest.mark.parametrize(
    ("start", "step"), [(HIGH, 1), (LOW, -1), (HIGH - 5, 6), (1, HIGH), (-2, LOW), (1 << 62, 1 << 62)]
)
def test_what_would_leave_64_bits_is_an_overflow_error_and_changes_nothing(core, start, step):
    counter = Counter(start)
    with pytest.raises(OverflowError):
        counter.add(step)
    assert counter.get() == start
    counter.add(-1 if start > 0 else 1)
    assert counter.get() == start + (-1 if start > 0 else 1)


def test_a_counter_takes_whole_numbers_of_64_bits(core):
    for wrong in (HIGH + 1, LOW - 1):
        for call in (Counter, Counter(0).set, Counter(0).add, lambda n: Counter(0).compare_and_set(0, n)):
            with pytest.raises(OverflowError):
                call(wrong)
    for wrong in (1.5, "1", None):
        for call in (Counter, Counter(0).set, Counter(0).add):
            with pytest.raises(TypeError):
                call(wrong)
    assert Counter(numpy.int32(3)).add(numpy.int64(4)) == 7
    assert Counter(HIGH).get() == HIGH and Counter(LOW).get() == LOW


@settings(max_examples=200, deadline=None)
@given(
    start=st.integers(LOW, HIGH),
    steps=st.lists(st.one_of(st.integers(LOW, HIGH), st.integers(-10, 10), st.sampled_from([1 << 62, -(1 << 62)]))),
)
def test_a_counter_is_an_int_with_bounds(start, steps):
    counter, model = Counter(start), start
    for step in steps:
        if LOW <= model + step <= HIGH:
            model += step
            assert counter.add(step) == model
        else:
            with pytest.raises(OverflowError):
                counter.add(step)
        assert counter.get() == model


def test_threads_add_exactly(core):
    counter = Counter(0)
    threads = [threading.Thread(target=lambda: [counter.add() for _ in range(5000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.get() == 20_000


# --- the lock of a Value ----------------------------------------------------------------------------------------------


def test_the_lock_is_reentrant_and_excludes_other_threads(core):
    value = Value("i")
    lock = value.get_lock()
    tries = []

    def another(*args, **kwargs):
        thread = threading.Thread(target=lambda: tries.append(lock.acquire(*args, **kwargs)))
        thread.start()
        thread.join()
        return tries.pop()

    with lock, lock, value:
        assert not another(False)
        assert not another(True, 0.01)
        assert not another(timeout=0)
    assert lock.acquire(timeout=5)
    lock.release()
    with pytest.raises(AssertionError, match="not owned"):
        lock.release()


def test_a_waiter_gets_the_lock_when_it_is_released(core):
    value = Value("i")
    order = []
    waiting = threading.Event()

    def wait():
        waiting.set()
        with value.get_lock():
            order.append("waiter")

    with value.get_lock():
        thread = threading.Thread(target=wait)
        thread.start()
        waiting.wait()
        order.append("holder")
    thread.join()
    assert order == ["holder", "waiter"]


def test_a_lock_of_a_thread_that_ended_is_had_by_the_next(core):
    if core == "portable":
        pytest.skip("a threading.RLock of a thread that has ended stays shut: see portable.py")
    lock = Value("i").get_lock()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    assert lock.acquire(timeout=5)
    lock.release()


def test_a_value_dropped_while_it_is_held_is_let_go(core):
    for _ in range(100):
        value = Value("i", 1)
        value.acquire()
        del value
        gc.collect()
    assert Value("i").acquire()


# --- Value and Array beyond the standard library's tests --------------------------------------------------------------


@pytest.mark.leaves_behind("fd")  # the heap of multiprocessing
def test_they_are_the_standard_librarys(core):
    from multiprocessing import sharedctypes

    value, array, text = Value("i", 1), Array("i", 3), Array("c", 3)
    assert isinstance(value, sharedctypes.Synchronized)
    assert isinstance(array, sharedctypes.SynchronizedArray) and isinstance(text, sharedctypes.SynchronizedString)
    assert repr(value) == repr(multiprocessing.Value("i", 1))
    assert type(RawArray("d", 2)) is type(sharedctypes.RawArray("d", 2))


def test_new_memory_is_zeros_also_where_it_was_used_before(core):
    for _ in range(50):
        array = Array("i", 100)
        assert not any(array[:])
        array[:] = [7] * 100


def test_a_ctypes_object_that_is_not_shared_is_pickled_as_before(core):
    import ctypes

    Value("i", 1)  # puts our reducer down for c_int
    assert pickle.loads(pickle.dumps(ctypes.c_int(5))).value == 5


def test_a_million_counters_take_a_handful_of_descriptors():
    if not _native.available:
        pytest.skip(_native.why_not)
    before = len(os.listdir("/proc/self/fd"))
    counters = [Counter(i) for i in range(100_000)]
    assert len(os.listdir("/proc/self/fd")) - before < 10
    assert all(counter.get() == i for i, counter in enumerate(counters))


# --- share() ----------------------------------------------------------------------------------------------------------


def test_what_is_computed_from_a_shared_array_is_ordinary(core):
    array = share(numpy.arange(6.0).reshape(2, 3))
    assert type(array + 1) is numpy.ndarray and type(array.sum(axis=0)) is numpy.ndarray
    assert type(array[[0]]) is numpy.ndarray and isinstance(array.sum(), numpy.float64)
    assert type(array[0]) is type(array) and type(array.T) is type(array)
    out = share.zeros((2, 3))
    assert numpy.add(array, 1, out=out) is out and out[1, 2] == 6


def test_a_copy_keeps_no_shared_memory(core):
    array = share(numpy.arange(1000))
    memory = weakref.ref(array._memory)
    copy, computed, back = array.copy(), array * 2, pickle.loads(pickle.dumps(array[:0]))
    del array
    gc.collect()
    assert memory() is None and copy[5] == 5 and computed[5] == 10 and not back.size


def test_a_view_keeps_the_memory(core):
    part = share(numpy.arange(1000))[5:7]
    gc.collect()
    assert list(part) == [5, 6]
    view = memoryview(share(b"abc"))
    gc.collect()
    assert bytes(view) == b"abc"


def test_what_is_shared_already_is_not_copied(core):
    array = share(numpy.arange(10), writable=True)
    again, view = share(array, writable=True), share(array)
    array[0] = 5
    assert again is array and view[0] == 5
    with pytest.raises(ValueError):
        view[0] = 1
    assert share(view, writable=True) is not view  # what may not be written is copied first
    buffer = share(bytearray(3), writable=True)
    seen = share(buffer)
    buffer[0] = 9
    assert seen.readonly and seen[0] == 9


def test_objects_in_an_array_are_refused_with_the_reason(core):
    for array in (numpy.array([object()]), numpy.zeros(2, [("a", "O")])):
        with pytest.raises(TypeError, match="Python objects cannot be shared"):
            share(array)
    with pytest.raises(TypeError, match="Python objects"):
        share.zeros(3, object)


def test_only_buffers_can_be_writable(core):
    with pytest.raises(TypeError, match="list cannot be shared writable"):
        share([1], writable=True)


def test_a_subclass_of_an_array_is_shared_as_an_object(core):
    masked = numpy.ma.masked_array([1, 2, 3], [False, True, False])
    assert share(masked).value.sum() == 4


def test_other_memoryviews_are_still_not_pickled(core):
    share(b"abc")
    with pytest.raises(TypeError, match="cannot pickle 'memoryview'"):
        pickle.dumps(memoryview(b"abc"))


def test_a_shared_object_is_a_copy_that_each_process_has_once(core):
    content = {"a": [1, 2], "array": numpy.arange(100_000)}
    shared = share(content)
    assert isinstance(shared, Shared)
    content["a"].append(3)
    assert shared.value["a"] == [1, 2] and shared.value is shared.value
    again = pickle.loads(pickle.dumps(shared))
    assert again.value is shared.value
    array = shared.value["array"]
    assert not array.flags.writeable and array.sum() == sum(range(100_000))
    assert repr(shared) == f"<Shared dict, {shared.nbytes:,} bytes>"
    del shared, again
    gc.collect()
    assert array[99_999] == 99_999  # its memory is held by the array


def test_an_object_that_cannot_be_pickled_is_refused_with_its_path(core):
    with pytest.raises(CannotTravel) as caught:
        share({"a": [threading.Lock()]})
    assert "['a'][0]" in str(caught.value)


def test_sharing_needs_no_numpy():
    program = (
        "import sys; sys.modules['numpy'] = None\n"
        "from multitask import share, Counter, Value\n"
        "assert bytes(share(b'abc')) == b'abc' and share([1]).value == [1]\n"
        "assert Counter(3).add() == 4 and Value('i', 3).value == 3\n"
    )
    for native in "10":
        env = os.environ | {"MULTITASK_NATIVE": native}
        done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, env=env)
        assert (done.returncode, done.stderr) == (0, "")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_slice_of_a_shared_array_comes_back_as_it_was(data):
    shape = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    array = share(numpy.arange(int(numpy.prod(shape))).reshape(shape))
    index = tuple(data.draw(st.one_of(st.slices(length), st.just(slice(None)))) for length in shape)
    part = array[index]
    if data.draw(st.booleans()):
        part = part.T
    back = pickle.loads(pickle.dumps(part))
    assert numpy.array_equal(back, part) and back.dtype == part.dtype
    if part.size:
        assert back.strides == part.strides and back._memory is array._memory
