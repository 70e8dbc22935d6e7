"""Flow and Stream over a core that the test settles by hand: what is pulled when, and what is yielded."""

from __future__ import annotations

import collections
import gc
import itertools
import threading

import pytest

from multitask._engine.callbacks import Callbacks
from multitask._engine.core import CHUNK
from multitask._engine.flow import Flow, Flows, Plan
from multitask._engine.streams import Stream
from multitask.errors import CancelledError, PoolClosed, TimeoutError


class Call:
    """A task as far as streams look at it."""

    def __init__(self, fn, args, mode):
        self.fn, self.args, self.mode = fn, args, mode
        self._settled = False
        self._asked = False
        self._ok, self._value = False, None

    def settle(self):
        if self._settled:
            return
        try:
            self._value = [self.fn(x) for x in self.args[0]] if self.mode == CHUNK else self.fn(*self.args)
            self._ok = True
        except Exception as error:
            self._value = error
        self._settled = True

    def _outcome(self):
        self._asked = True
        return self._ok, self._value


class ByHand:
    """A core whose calls end when the test says so, or when somebody waits for them."""

    closed = False

    def __init__(self):
        self.calls = []
        self.waits = 0

    def submit(self, fn, args, kwargs, options=None, mode=0, basket=None):
        if self.closed:
            raise PoolClosed("Pool not running")
        call = Call(fn, args, mode)
        self.calls.append(call)
        return call

    def withdraw(self, call):
        if not call._settled:
            call._settled, call._ok, call._value = True, False, CancelledError()

    def wait(self, target, timeout):
        self.waits += 1
        if timeout is not None and timeout <= 0:
            return False
        target.settle()
        return True


@pytest.fixture
def callbacks():
    callbacks = Callbacks("test")
    yield callbacks
    callbacks.close()
    callbacks.drain()


@pytest.fixture
def stream(callbacks):
    def make(fn, items, buffer=4, chunk=1, core=None):
        core = ByHand() if core is None else core
        flow = Flow(core, fn, None, items, Plan(True, chunk, buffer, 2, "process"))
        flow.start()
        return Stream(flow, callbacks, None), core

    return make


def double(x):
    return 2 * x


def test_a_builtin_container_is_pulled_by_the_consumer_up_to_the_bound(stream):
    results, core = stream(double, range(100), buffer=4)
    assert len(core.calls) == 4  # begun before anybody asks
    assert next(results) == 0
    assert len(core.calls) == 4  # the first is not known to have arrived yet
    assert next(results) == 2
    assert len(core.calls) == 5
    assert list(results) == [2 * i for i in range(2, 100)]
    assert threading.active_count() == 1


def test_a_settled_head_is_yielded_without_waiting(stream):
    results, core = stream(double, [1, 2, 3])
    for call in core.calls:
        call.settle()
    assert list(results) == [2, 4, 6]
    assert core.waits == 0


def test_results_keep_the_items_order_whatever_settles_first(stream):
    results, core = stream(double, [1, 2, 3])
    for call in reversed(core.calls):
        call.settle()
    assert list(results) == [2, 4, 6]


def test_chunks_are_whole_but_for_the_last(stream):
    results, core = stream(double, range(10), buffer=9, chunk=4)
    assert [len(call.args[0]) for call in core.calls] == [4, 4]
    assert list(results) == [2 * i for i in range(10)]
    assert [len(call.args[0]) for call in core.calls] == [4, 4, 2]


def test_the_chunk_is_never_greater_than_the_buffer():
    assert Plan(True, 10, 3, 2, "process").chunk == 3
    assert Plan(True, 1, None, 2, "process").buffer >= 64
    assert Plan(True, 5, None, 2, "inline").buffer == 5


@pytest.mark.parametrize(("chunk", "buffer"), [(0, None), (-1, None), (1, 0)])
def test_a_plan_refuses_what_makes_no_sense(chunk, buffer):
    with pytest.raises(ValueError):
        Plan(True, chunk, buffer, 2, "process")


def test_a_failed_chunk_fails_once_and_its_items_count_as_yielded(stream):
    results, core = stream(lambda x: 1 // (x - 1), range(8), buffer=4, chunk=2)
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert next(results) == 1
    assert len(core.calls) == 3
    assert list(results) == [0, 0, 0, 0, 0]


def test_next_with_a_timeout_gives_up_and_loses_nothing(stream):
    results, _ = stream(double, [1, 2])
    with pytest.raises(TimeoutError):
        results.next(timeout=0)
    assert list(results) == [2, 4]


def test_submitting_to_a_closed_pool_is_told_after_the_results(stream):
    results, core = stream(double, range(100), buffer=4)
    core.closed = True
    got = []
    with pytest.raises(PoolClosed):
        for value in results:
            got.append(value)
    assert got == [0, 2, 4, 6]
    with pytest.raises(StopIteration):
        next(results)


def test_an_interrupt_while_pulling_ends_the_stream_and_says_so_again(stream):
    class Interrupted(ByHand):
        def submit(self, fn, args, *rest):
            if args[0] == 4:
                raise KeyboardInterrupt
            return super().submit(fn, args, *rest)

    results, _ = stream(double, range(100), buffer=4, core=Interrupted())
    assert next(results) == 0
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert [next(results) for _ in range(3)] == [2, 4, 6]
    with pytest.raises(KeyboardInterrupt):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_other_iterators_are_pulled_on_a_feeder_thread_that_ends(stream):
    threads = set()

    def items():
        for item in range(20):
            threads.add(threading.current_thread())
            yield item

    results, _ = stream(double, items(), buffer=4)
    assert list(results) == [2 * i for i in range(20)]
    (feeder,) = threads
    assert feeder is not threading.current_thread()
    feeder.join(60)
    assert not feeder.is_alive()


def test_a_dropped_stream_cancels_what_waits_and_ends_the_feeder(stream, callbacks):
    pulled = threading.Semaphore(0)
    ended = threading.Event()

    def items():
        try:
            for item in itertools.count():
                yield item
                pulled.release()
        finally:
            ended.set()

    results, core = stream(double, items(), buffer=3)
    assert next(results) == 0
    assert pulled.acquire(timeout=60)
    del results
    gc.collect()
    assert ended.wait(60)
    assert callbacks.drain(60)
    assert all(call._settled for call in core.calls)
    assert any(isinstance(call._value, CancelledError) for call in core.calls)


def test_failures_behind_one_that_was_raised_are_excused(stream):
    results, core = stream(lambda x: 1 // x, [0, 0, 0])
    for call in core.calls:
        call.settle()
    with pytest.raises(ZeroDivisionError):
        next(results)
    results._flow.excuse()
    assert all(call._asked for call in core.calls)


def test_failures_of_a_stream_that_raised_nothing_are_not_excused(stream):
    results, core = stream(lambda x: 1 // x, [1, 0, 0])
    for call in core.calls:
        call.settle()
    assert next(results) == 1
    results._flow.excuse()
    assert [call._asked for call in core.calls] == [True, False, False]


class TestClosing:
    """What close(), drain() and stop() of a pool do with its streams."""

    def flow(self, items, buffer=2):
        return Flow(ByHand(), double, None, items, Plan(True, 1, buffer, 2, "process"))

    def test_without_streams_the_pool_is_done_at_once(self):
        done = []
        flows = Flows(lambda: done.append(1))
        flows.close()
        flows.close()
        assert done == [1]

    def test_closing_submits_what_builtin_containers_still_hold(self):
        done = []
        flows = Flows(lambda: done.append(1))
        flow = self.flow(range(100))
        flows.add(flow)
        assert len(flow.core.calls) == 2 and not done
        flows.close()
        assert len(flow.core.calls) == 100 and done == [1]

    def test_closing_leaves_other_iterators_and_draining_reads_them_to_the_end(self):
        done = threading.Event()
        flows = Flows(done.set)
        flow = self.flow(iter(range(100)))
        flows.add(flow)
        flows.close()
        assert not done.is_set()
        assert flows.drain(60)
        assert done.wait(60)
        assert len(flow.core.calls) == 100

    def test_stopping_ends_an_endless_iterator_and_tells_the_reader(self, callbacks):
        done = threading.Event()
        flows = Flows(done.set)
        flow = self.flow(itertools.count())
        flows.add(flow)
        results = Stream(flow, callbacks, None)
        assert next(results) == 0
        flows.close()
        flows.stop("closed")
        assert done.wait(60)
        with pytest.raises(PoolClosed, match="the pool was closed before"):
            collections.deque(results, maxlen=0)
