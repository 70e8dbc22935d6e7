"""Value, Array, Counter and share() as arguments and results of tasks: each kind of worker, each start method."""

from __future__ import annotations

import ctypes
import multiprocessing
import os

import numpy
import pytest
import sharing_work as work

from multitask import Array, Counter, RawArray, RawValue, Value, _native, share


def test_a_counter_is_one_counter_wherever_it_goes(pool):
    counter = Counter(5)
    tasks = [pool.submit(work.add_many, counter, 1000) for _ in range(4)]
    for task in tasks:
        task.result()
    assert counter.get() == 4005
    back = pool.apply(work.same, (counter,))
    back.add(5)
    assert counter.value == 4010


def test_a_counter_made_in_a_worker_comes_back(pool):
    counter = pool.apply(work.make_counter, (7,))
    assert counter.add() == 8
    pool.apply(work.add_many, (counter, 2))
    assert counter.get() == 10


def test_a_value_is_incremented_under_its_lock(pool):
    value = Value("i", 3)
    tasks = [pool.submit(work.increment, value, 300) for _ in range(4)]
    for task in tasks:
        task.result()
    assert value.value == 1203


def test_arrays_structures_and_raw_objects_are_changed_in_place(pool):
    array, point = Array("i", 10), Value(work.Point, 1, 2.5)
    raw, nested = RawValue("d"), RawArray(ctypes.c_int * 3, 2)
    pool.apply(work.fill, (array, range(10)))
    pool.apply(work.set_point, (point,))
    pool.apply(setattr, (raw, "value", 2.5))
    pool.apply(work.fill, (nested, [(1, 2, 3), (4, 5, 6)]))
    assert array[:] == list(range(10))
    assert (point.x, point.y) == (7, 5.0)
    assert raw.value == 2.5
    assert [list(row) for row in nested] == [[1, 2, 3], [4, 5, 6]]


def test_a_string_array_has_value_and_raw(pool):
    text = Array("c", 20)
    pool.apply(setattr, (text, "value", b"hello"))
    assert text.value == b"hello" and text.raw == b"hello" + bytes(15)


def test_one_larger_than_an_arenas_cells(pool):
    array = Array("d", 10_000)
    pool.apply(work.fill, (array, [2.0] * 10_000))
    assert sum(array[:]) == 20_000


def test_a_shared_array_is_read_only(pool):
    array = share(numpy.arange(1000.0))
    assert work.try_to_write(array) is ValueError
    assert pool.apply(work.try_to_write, (array,)) is ValueError
    with pytest.raises(ValueError):
        array.flags.writeable = True
    assert pool.apply(work.first_and_flags, (array,)) == (0.0, False, "SharedArray")


def test_a_writable_array_is_the_same_memory_for_all(pool):
    array = share(numpy.arange(1000), writable=True)
    pool.apply(work.add_to_all, (array, 5))
    pool.apply(work.add_to_all, (array[10:20], 100))
    assert numpy.array_equal(array[:12], [*range(5, 15), 115, 116])
    view = share(array)  # no copy
    pool.apply(work.add_to_all, (array, 1))
    assert view[0] == 6 and not view.flags.writeable
    assert pool.apply(work.try_to_write, (view,)) is ValueError


@pytest.mark.processes
def test_slices_travel_as_handles(pool):
    array = share(numpy.arange(120).reshape(10, 12))
    place = work.lives_in(array)
    for part in (array[2:5], array[::2, ::-3], array.T, array[3], array.reshape(-1)[5:], array.view("uint8")):
        assert pool.apply(work.lives_in, (part,)) == place
        assert numpy.array_equal(pool.apply(work.same, (part,)), part)
        back = pool.apply(work.same, (part,))
        assert work.lives_in(back) == place and back.strides == part.strides


def test_every_layout_arrives_as_it_was(pool):
    record = numpy.dtype([("a", "i4"), ("b", "f8", (2,)), ("c", "S5")])
    arrays = [
        numpy.zeros((0, 3)),
        numpy.array(5),
        numpy.asfortranarray(numpy.arange(6).reshape(2, 3)),
        numpy.arange(20)[::3],
        numpy.ones(4, record),
        numpy.array(["ab", "c"]),
        numpy.array(["2020-01-01"], "M8[D]"),
        numpy.arange(3, dtype=">i4"),
    ]
    for array in arrays:
        shared = share(array)
        back = pool.apply(work.same, (shared,))
        for found in (shared, back):
            assert numpy.array_equal(found, array)
            assert found.dtype == array.dtype and found.shape == array.shape
            assert not found.flags.writeable or not found.size
    fortran = pool.apply(work.same, (share(arrays[2]),))
    assert fortran.flags.f_contiguous and not fortran.flags.c_contiguous


def test_an_array_made_in_shared_memory(pool):
    array = share.zeros((3, 4), "i4", order="F")
    assert array.flags.f_contiguous and array.flags.writeable and not array.any()
    pool.apply(work.add_to_all, (array, 2))
    assert (array == 2).all()
    assert share.empty(5).dtype == float


def test_an_array_made_in_a_worker_comes_back(pool):
    array = pool.apply(work.make_shared, (100,))
    assert array.sum() == 4950


def test_buffers_come_back_as_memoryviews(pool):
    import array

    for source in (b"abcdef", bytearray(b"xyz"), memoryview(b"12345")[1:4], array.array("d", [1.5, 2.5]), b""):
        view = share(source)
        back = pool.apply(bytes, (view,))
        assert back == bytes(source)
        assert view.readonly or not len(view)
    assert bytes(pool.apply(bytes, (share(b"abcdef")[2:4],))) == b"cd"
    floats = share(array.array("d", [1.5, 2.5]))
    assert floats.format == "d" and floats[1] == 2.5
    shape = memoryview(bytes(range(6))).cast("B", (2, 3))
    assert share(shape).shape == (2, 3)


def test_a_writable_buffer(pool):
    view = share(bytearray(4), writable=True)
    pool.apply(work.fill, (view[1:3], b"ab"))
    assert bytes(view) == b"\0ab\0"


def test_an_object_is_unpickled_once_in_each_process(variant):
    pool = variant.pool(2)
    loads = Counter(0)
    shared = share(work.Counted(loads, ["content"]))
    found = pool.map(work.content_of, [shared] * 20, 1)
    assert {content[0] for _, _, content in found} == {"content"}
    processes = {pid for _, pid, _ in found}
    assert len({(pid, number) for number, pid, _ in found}) == len(processes)
    assert loads.get() == len(processes)


def test_what_is_shared_inside_of_a_shared_object_is_shared(pool):
    shared = share({"counter": Counter(1), "array": share(numpy.arange(5))})
    pool.apply(work.add_many, (shared.value["counter"], 3))
    assert shared.value["counter"].get() == 4
    assert pool.apply(work.same, (shared,)).value["array"].sum() == 10


@pytest.mark.processes
def test_in_a_result_with_nobody_else_left(pool):
    """The worker is no user any more, the parent not yet: the handle under way keeps it."""
    tasks = [pool.submit(work.make_counter, i) for i in range(50)]
    counters = [task.result() for task in tasks]
    assert [counter.get() for counter in counters] == list(range(50))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.leaves_behind("fd", "child")  # the stdlib's fork server and its resource tracker
def test_multiprocessings_process_takes_them_all(method):
    context = multiprocessing.get_context(method)
    counter, value, array = Counter(0), Value("i", 0), share(numpy.zeros(10), writable=True)
    steps = [(work.add_many, (counter, 10)), (work.increment, (value, 10)), (work.add_to_all, (array, 3))]
    children = [context.Process(target=call, args=args) for call, args in steps]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert (counter.get(), value.value, array.sum()) == (10, 10, 30)


def test_in_multiprocessings_queue():
    queue = multiprocessing.get_context("fork").Queue()
    counter, array = Counter(3), share(numpy.arange(5))
    queue.put((counter, array[1:3]))
    same, part = queue.get(timeout=60)
    same.add()
    assert counter.get() == 4 and work.lives_in(part) == work.lives_in(array)
    queue.close()
    queue.join_thread()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_what_its_parent_had():
    counter, array = Counter(0), share(numpy.zeros(4), writable=True)
    value = Value("i", 0)
    pid = os.fork()
    if not pid:
        try:
            counter.add(2)
            array += 1
            work.increment(value, 5)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert (counter.get(), array.sum(), value.value) == (2, 4, 5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_is_a_user_of_its_own():
    counter = Counter(5)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        code = 99
        try:
            os.close(write)
            os.read(read, 1)  # until the parent has dropped its own and used its cells again and again
            code = counter.get()
        finally:
            os._exit(code)
    os.close(read)
    del counter
    others = [Counter(9) for _ in range(20_000 if _native.available else 100)]
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5 and others
