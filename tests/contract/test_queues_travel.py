"""A shared queue as an argument, a result, an item of another queue, also to processes that run already."""

import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time

import pytest
import queue_work as work
from queue_kinds import HANG_SECONDS, METHODS
from test_queues_processes import forked, running

import multitask
from multitask import Pool, Queue, SimpleQueue

pytestmark = pytest.mark.shared


@pytest.fixture(params=METHODS)
def busy_pool(request):
    """A pool whose workers run before the test makes a queue."""
    with Pool(2, start_method=request.param) as pool:
        pool.map(abs, range(4), chunksize=1)
        yield pool
    # with its feeders and threads


def test_an_argument_of_a_task_in_a_worker_that_runs_already(flavour, busy_pool):
    q, back = flavour.queue(5), flavour.queue()
    task = busy_pool.submit(work.echo, q, back)
    items = [1, "two", b"3" * 100_000]
    q.put_many(items)
    q.shutdown()
    task.result(HANG_SECONDS)
    assert back.get_many() == items


def test_an_argument_inside_of_others(flavour, busy_pool):
    q = flavour.queue()
    q.put("found")
    assert busy_pool.apply(work.get_of, ({"queue": q},)) == "found"


def test_in_a_closure(flavour, busy_pool):
    q = flavour.queue()
    busy_pool.submit(lambda: q.put("from a lambda")).result(HANG_SECONDS)
    assert q.get(timeout=0) == "from a lambda"


def test_a_result_of_a_task(flavour, busy_pool):
    q = flavour.queue(3)
    assert busy_pool.apply(work.give_back, (q,)) is q  # the very object that went there
    if flavour.kind is type(Queue()):
        made = busy_pool.apply(work.make_queue, ("abc",))
        assert made.get_many() == ["a", "b", "c"]


def test_an_item_of_another_queue(flavour):
    outer, inner = flavour.queue(), flavour.queue(4)
    inner.put("inside")
    outer.put([inner])
    assert outer.get()[0] is inner
    with forked(lambda: outer.put(flavour_with(flavour, "of the child"))):
        got = outer.get(timeout=HANG_SECONDS)
    assert got.get(timeout=0) == "of the child"  # its maker has ended


def flavour_with(flavour, item):
    q = flavour.queue()
    q.put(item)
    return q


def test_an_argument_of_an_initializer(flavour, busy_pool):
    q = flavour.queue()
    with Pool(2, work.keep, (q,)) as pool:
        pool.map(work.put_on_the_kept, range(6), chunksize=1)
    assert sorted(q.get_many()) == list(range(6))


@pytest.mark.parametrize("method", METHODS)
def test_a_handle_from_a_grandchild(flavour, method):
    through = flavour.queue()
    with running(method, work.make_queue_and_hand_it_over, through, "xyz") as process:
        got = through.get(timeout=HANG_SECONDS)
        process.join(HANG_SECONDS)
    assert got.get_many() == ["x", "y", "z"]


def test_twice_in_one_message_it_is_one_object(flavour, busy_pool):
    q = flavour.queue()
    assert busy_pool.apply(work.same, (q, q))
    assert q.qsize() == 0
    first, second = pickle.loads(pickle.dumps([q, q]))
    assert first is second is q


def test_sent_again_and_again_it_costs_one_descriptor(flavour, busy_pool):
    carrier, q = flavour.queue(), flavour.queue()
    assert busy_pool.submit(work.counts, q).result(HANG_SECONDS) == (0, 0, 0, 0)
    task = busy_pool.submit(work.many_copies, carrier, 50)
    for _ in range(50):
        carrier.put(q)
    grown = task.result(HANG_SECONDS)
    assert [q.get(timeout=0) for _ in range(50)] == ["seen"] * 50
    # One for the queue itself (the portable one has more), which the task lets go of each time.
    assert grown <= 8


def test_a_queue_that_is_gone_everywhere_leaves_nothing_with_the_root(flavour, busy_pool):
    def descriptors():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    def once():
        q = flavour.queue()
        busy_pool.submit(work.counts, q).result(HANG_SECONDS)

    once()
    before = descriptors()
    for _ in range(30):
        once()
    # The root looks at a few of what it keeps at each event: what the last ones left goes with the next.
    until = time.monotonic() + HANG_SECONDS
    while descriptors() > before + 8 and time.monotonic() < until:
        once()
    assert descriptors() <= before + 8


def test_a_simple_queue_travels_too(busy_pool):
    q = SimpleQueue()
    busy_pool.submit(q.put, "simple").result(HANG_SECONDS)
    assert q.get() == "simple" and q.empty()


def test_the_stdlibs_process_under_every_method_gets_it_in_any_shape(flavour):
    for method in METHODS:
        q = flavour.queue()
        with running(method, work.keep, [q, {"q": q}]):
            pass
        q.put(1)
        assert q.get() == 1


def test_a_local_queue_refuses_to_travel_and_says_why():
    q = Queue(shared=False)
    with pytest.raises(multitask.CannotTravel, match="shared=False"):
        pickle.dumps(q)
    with pytest.raises(multitask.CannotTravel, match="shared=False"):
        Queue().put(q)
    with Pool(1) as pool, pytest.raises(multitask.CannotTravel, match="shared=False"):
        pool.submit(print, q).result()
    process = multiprocessing.get_context("spawn").Process(target=print, args=(q,))
    with pytest.raises(multitask.CannotTravel, match="shared=False"):
        process.start()


def test_what_a_killed_worker_held_is_gone_and_the_queue_goes_on(flavour, busy_pool):
    q = flavour.queue()
    q.put_many(range(10))
    with pytest.raises(multitask.WorkerLost):
        busy_pool.submit(take_and_die, q).result(HANG_SECONDS)
    assert q.get_many() == list(range(1, 10))
    assert q.put_count == 10 == q.got_count
    assert busy_pool.submit(work.counts, q).result(HANG_SECONDS) == (10, 10, 0, 0)


def take_and_die(q):
    q.get()
    os.kill(os.getpid(), signal.SIGKILL)


def test_threads_that_receive_one_queue_at_once_get_one_object(flavour):
    q = flavour.queue()
    carrier = flavour.queue()
    carrier.put(q)  # so that the child lends to this process
    assert carrier.get() is q
    with forked(lambda: [carrier.put(q) for _ in range(16)]):
        seen = []
        threads = [threading.Thread(target=lambda: seen.append(carrier.get(timeout=HANG_SECONDS))) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 16 and all(one is q for one in seen)
