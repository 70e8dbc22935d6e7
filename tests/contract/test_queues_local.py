"""``Queue(shared=False)``: what only the queue between threads promises, compiled and in Python."""

import copy
import gc
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import queue_kinds
from queue_kinds import HANG_SECONDS, Call

from multitask import CannotTravel, Queue
from multitask._engine.queueing import local


@pytest.fixture(params=queue_kinds.LOCAL)
def kind(request):
    return queue_kinds.Flavour(request.param).kind


def test_the_door_gives_the_compiled_one_where_it_is():
    assert type(Queue(shared=False)) is getattr(local, "NativeLocalQueue", local.PlainLocalQueue)


def test_what_cannot_be_pickled_passes_as_it_is(kind):
    q = kind()
    things = [lambda: 1, threading.Lock(), sys.stdin, (x for x in "a")]
    q.put_many(things)
    assert all(q.get() is thing for thing in things)


@pytest.mark.parametrize("travel", [pickle.dumps, Queue().put])
def test_it_refuses_to_travel_and_says_what_to_use(kind, travel):
    with pytest.raises(CannotTravel, match=r"Queue\(maxsize\), which is shared by default"):
        travel(kind())
    with pytest.raises(TypeError):
        copy.copy(kind())


def test_items_hold_no_reference_after_they_are_gone(kind):
    class Item:
        pass

    q = kind(1)
    item = Item()
    seen = weakref.ref(item)
    q.put(item)
    with pytest.raises(q.Full):
        q.put(item, timeout=0.01)
    assert q.get() is item
    del item
    assert seen() is None


def test_who_waits_longest_gets_first(kind):
    q = kind()
    getters = []
    for _ in range(5):
        getters.append(Call(q.get).asleep())
    q.put_many(range(5))
    assert [getter.result() for getter in getters] == list(range(5))


def test_who_waits_longest_puts_first(kind):
    q = kind(1)
    q.put("first")
    putters = [Call(q.put, n).asleep() for n in range(5)]
    assert q._waiting() == (0, 5)
    assert [q.get() for _ in range(6)] == ["first", 0, 1, 2, 3, 4]
    for putter in putters:
        putter.result()


def test_a_signal_handler_may_put_while_its_thread_gets(kind):
    q = kind()
    before = signal.signal(signal.SIGUSR1, lambda *_: q.put("from the handler"))
    try:
        for _ in range(200):  # at whatever point of get() and put() it arrives
            signal.raise_signal(signal.SIGUSR1)
            assert q.get() == "from the handler"
        got = []
        sender = threading.Thread(target=lambda: [signal.pthread_kill(main, signal.SIGUSR1) for _ in range(300)])
        main = threading.get_ident()
        sender.start()
        while sender.is_alive():
            q.put("mine")
            got.append(q.get())
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert q.put_count - q.got_count == q.qsize() and q.unfinished_tasks == q.put_count


def test_an_error_in_a_handler_ends_get_and_loses_nothing(kind, interrupt_when):
    q = kind()

    def handler(*_):
        q.put("handed to the one who waits")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    try:
        interrupt_when(lambda: _until(lambda: q._waiting() == (1, 0)))
        with pytest.raises(KeyboardInterrupt):
            q.get(timeout=HANG_SECONDS)
    finally:
        signal.signal(signal.SIGINT, before)
    assert q._waiting() == (0, 0) and q.qsize() == 1
    assert q.get_nowait() == "handed to the one who waits"


@pytest.mark.parametrize("call", ["get", "join", "wait_readable"])
def test_ctrl_c_ends_a_main_thread_that_waits(kind, call, interrupt_when):
    q = kind()
    if call == "join":
        q.put(1)
    with pytest.raises(KeyboardInterrupt):
        interrupt_when(_asleep if call == "join" else lambda: _until(lambda: q._waiting()[0]))
        getattr(q, call)(timeout=HANG_SECONDS)
        pytest.fail("it came back")
    assert q._waiting() == (0, 0)


def test_a_finalizer_may_put_while_the_queue_grows(kind):
    q = kind()

    class Late:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            q.put("from a finalizer")

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for n in range(3000):
            Late()
            q.put(n)
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    got = q.get_many()
    assert [item for item in got if item != "from a finalizer"] == list(range(3000))
    assert got.count("from a finalizer") == 3000


def test_items_of_a_queue_that_is_garbage_are_freed(kind):
    class Item:
        pass

    q = kind()
    item = Item()
    item.queue = q
    q.put(item)
    seen = weakref.ref(item)
    del q, item
    gc.collect()
    assert seen() is None


def test_what_was_dropped_may_use_the_queue_when_it_goes(kind):
    q = kind()

    class Item:
        def __del__(self):
            outcomes.append((q.qsize(), q.is_shutdown))

    outcomes = []
    q.put_many([Item() for _ in range(3)])
    q.shutdown(immediate=True)
    assert outcomes == [(0, True)] * 3 and q.unfinished_tasks == 0


def test_a_million_items_leave_no_memory_behind(kind):
    q = kind()
    q.put_many(range(100_000))
    assert q.get_many() == list(range(100_000))
    q.put_many("abc")
    assert q.get_many(2) == ["a", "b"] and q.get() == "c"


def test_the_child_of_a_fork_goes_on_alone(kind):
    q = kind(1)
    waiting = Call(q.get).asleep()
    child = os.fork()
    if child == 0:
        q.put("for the child")  # to nobody: who waits is in the parent
        ok = q.get(timeout=0) == "for the child" and q._waiting() == (0, 0)
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    q.put("for the parent")
    assert waiting.result() == "for the parent"


def test_sixteen_threads_on_each_side_lose_nothing(kind):
    q = kind(7)
    putters = [Call(q.put_many, [(n, i) for i in range(300)]) for n in range(16)]
    getters = [Call(list, q) for _ in range(16)]
    for putter in putters:
        putter.result()
    q.shutdown()
    got = [getter.result() for getter in getters]
    assert sorted(sum(got, [])) == [(n, i) for n in range(16) for i in range(300)]
    for part in got:  # of each producer in its order
        for n in range(16):
            mine = [i for m, i in part if m == n]
            assert mine == sorted(mine)


def _asleep():
    """Until the main thread sleeps in the kernel, as well as one can see that from outside."""
    stat = Path(f"/proc/self/task/{threading.main_thread().native_id}/stat")
    for _ in range(5):
        _until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S")
        time.sleep(0.01)


def _until(true):
    """Spins, giving the others their turns: what it waits for comes by itself."""
    while not true():
        os.sched_yield()
