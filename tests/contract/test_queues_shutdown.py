"""Queue.shutdown: CPython 3.13's, on every version, for threads and processes.

On 3.13 CPython's own tests of it run as well (tests/stdlib/test_queue_suite.py).
"""

import os
import queue
import sys
import threading

import pytest
import queue_work as work
from queue_kinds import HANG_SECONDS, Call

import multitask
from multitask import Queue, ShutDown


def test_shutdown_is_one_exception_under_all_its_names():
    assert ShutDown is Queue.ShutDown is multitask.queues.ShutDown
    if sys.version_info >= (3, 13):
        assert ShutDown is queue.ShutDown


@pytest.mark.parametrize("immediate", [False, True])
def test_nothing_goes_in_any_more(flavour, immediate):
    q = flavour.queue(2)
    assert not q.is_shutdown
    q.put("a")
    q.shutdown(immediate)
    assert q.is_shutdown
    for put in (q.put, q.put_nowait, lambda item: q.put(item, timeout=1000)):
        with pytest.raises(ShutDown):
            put("b")
    assert q.qsize() == (not immediate)


def test_what_is_in_can_still_be_taken(flavour):
    q = flavour.queue()
    q.put_many("abc")
    q.shutdown()
    assert [q.get(), q.get_nowait(), q.get(timeout=1)] == ["a", "b", "c"]
    for get in (q.get, q.get_nowait, lambda: q.get(timeout=1000)):
        with pytest.raises(ShutDown):
            get()


def test_a_full_queue_that_is_shut_down_raises_shutdown_and_not_full(flavour):
    q = flavour.queue(1)
    q.put("a")
    q.shutdown()
    with pytest.raises(ShutDown):
        q.put_nowait("b")


def test_immediate_drops_what_is_in_and_settles_it(flavour):
    q = flavour.queue()
    q.put_many("abcd")
    q.get()
    q.task_done()
    assert q.unfinished_tasks == 3
    q.shutdown(immediate=True)
    with pytest.raises(ShutDown):
        q.get()
    assert q.empty() and q.unfinished_tasks == 0
    assert (q.put_count, q.got_count) == (4, 4)
    q.join()
    with pytest.raises(ValueError):
        q.task_done()


def test_immediate_leaves_to_join_what_was_taken_and_is_not_done(flavour):
    q = flavour.queue()
    q.put_many("abc")
    q.get()
    q.shutdown(immediate=True)
    assert q.unfinished_tasks == 1
    call = Call(q.join).asleep()
    q.task_done()
    call.result()


def test_it_may_be_shut_down_again_and_more_so(flavour):
    q = flavour.queue()
    q.put_many("ab")
    q.shutdown()
    q.shutdown()
    assert q.qsize() == 2
    q.shutdown(True)
    q.shutdown(False)
    assert q.is_shutdown and q.empty()


def test_what_was_done_before_it_was_dropped_counts_once(flavour):
    q = flavour.queue()
    for number in range(4):
        q.put(number)
    q.task_done()
    q.shutdown(immediate=True)
    assert q.unfinished_tasks == 0
    with pytest.raises(ValueError):
        q.task_done()
    q.join(10.0)  # only detects a hang


def test_a_huge_backlog_is_dropped_at_once(flavour):
    q = flavour.queue()
    for _ in range(20):
        q.put(b"x" * 3_000_000)
    q.shutdown(immediate=True)
    assert q.empty() and list(q) == []


@pytest.mark.parametrize("immediate", [False, True])
def test_all_who_wait_are_woken(flavour, immediate):
    empty, full = flavour.queue(), flavour.queue(1)
    full.put("in")
    calls = [Call(empty.get).asleep() for _ in range(3)]
    calls += [Call(full.put, n).asleep() for n in range(3)]
    empty.shutdown(immediate)
    full.shutdown(immediate)
    for call in calls:
        with pytest.raises(ShutDown):
            call.result()
    assert full.qsize() == (not immediate)


def test_immediate_wakes_those_who_join(flavour):
    q = flavour.queue()
    q.put("a")
    calls = [Call(q.join).asleep() for _ in range(2)]
    q.shutdown(immediate=True)
    for call in calls:
        call.result()


def test_without_immediate_join_waits_for_the_rest(flavour):
    q = flavour.queue()
    q.put_many("ab")
    call = Call(q.join).asleep()
    q.shutdown()
    for _ in q:
        assert call.asleep().thread.is_alive()
        q.task_done()
    call.result()


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_amid_a_crowd_loses_nothing_silently(flavour, immediate):
    q = flavour.queue(50)
    gate = threading.Barrier(9)

    def fill(n):
        gate.wait()
        for i in range(10_000):
            try:
                q.put((n, i))
            except ShutDown:
                return i
        return 10_000

    def drain():
        gate.wait()
        return list(q)

    fillers = [Call(fill, n) for n in range(4)]
    drainers = [Call(drain) for _ in range(4)]
    gate.wait()
    for _ in range(200):
        q.wait_readable()
    q.shutdown(immediate)
    put = [call.result() for call in fillers]
    got = sum((call.result() for call in drainers), [])
    assert len(set(got)) == len(got), "an item came twice"
    assert {(n, i) for n, count in enumerate(put) for i in range(count)} >= set(got)
    dropped = q.got_count - len(got)
    assert q.put_count == sum(put) and q.qsize() == 0
    assert 0 <= dropped <= 50 if immediate else dropped == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.shared
@pytest.mark.parametrize("immediate", [False, True])
def test_processes_that_wait_are_woken(flavour, immediate):
    from test_queues_processes import forked

    q, ready, outcome = flavour.queue(), flavour.queue(), flavour.queue()
    with forked(work.wait_for_the_end, q, ready, outcome), forked(work.wait_for_the_end, q, ready, outcome):
        for _ in range(2):
            ready.get(timeout=HANG_SECONDS)
        q.shutdown(immediate)
        assert [outcome.get(timeout=HANG_SECONDS) for _ in range(2)] == [("shut", None)] * 2
