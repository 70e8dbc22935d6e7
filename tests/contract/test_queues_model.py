"""Queue against a plain deque: any sequence of calls that do not wait has the same outcomes, errors included."""

from collections import deque

import queue_kinds
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from multitask import Empty, Full, ShutDown

ITEMS = st.one_of(
    st.integers(),
    st.binary(max_size=200),
    st.text(max_size=20),
    st.sampled_from([None, b"", (1, [2]), [{"a": 0.5}]]),
    st.sampled_from([5000, 70_000]).map(bytes),
)


class Plain:
    """What queue.Queue of Python 3.13 does, without waiting."""

    def __init__(self, maxsize):
        self.maxsize = maxsize
        self.items = deque()
        self.unfinished = self.put_count = self.got_count = 0
        self.shut = False

    def put(self, item):
        if self.shut:
            raise ShutDown
        if 0 < self.maxsize <= len(self.items):
            raise Full
        self.items.append(item)
        self.unfinished += 1
        self.put_count += 1

    def get(self):
        if not self.items:
            raise ShutDown if self.shut else Empty
        self.got_count += 1
        return self.items.popleft()

    def task_done(self, count):
        if count > self.unfinished:
            raise ValueError
        self.unfinished -= count

    def shutdown(self, immediate):
        self.shut = True
        if immediate:
            self.unfinished = max(0, self.unfinished - len(self.items))
            self.got_count += len(self.items)
            self.items.clear()


def outcome(call, *args):
    try:
        return call(*args)
    except (Full, Empty, ShutDown, ValueError) as error:
        return type(error)


def machine(make):
    class Queues(RuleBasedStateMachine):
        @initialize(maxsize=st.sampled_from([0, 0, 1, 2, 5]))
        def begin(self, maxsize):
            self.real, self.plain = make(maxsize), Plain(maxsize)

        def teardown(self):
            self.real = None

        @rule(item=ITEMS)
        def put(self, item):
            assert outcome(self.real.put, item, False) == outcome(self.plain.put, item)

        @rule()
        def get(self):
            assert outcome(self.real.get, False) == outcome(self.plain.get)

        @rule(items=st.lists(ITEMS, max_size=8))
        def put_many(self, items):
            done, error = 0, None
            try:
                done = self.real.put_many(items, block=False)
            except (Full, ShutDown) as caught:
                done, error = caught.done, type(caught)
            expected = [outcome(self.plain.put, item) for item in items]
            assert done == expected.count(None)
            assert error is (expected[-1] if items else None)

        @rule(most=st.one_of(st.none(), st.integers(1, 10)))
        def get_many(self, most):
            got = outcome(self.real.get_many, most, False)
            if got in (Empty, ShutDown):
                assert got is outcome(self.plain.get)
                return
            # How many come at once is its own affair.
            assert 1 <= len(got) <= (most or len(got))
            assert got == [self.plain.get() for _ in got]

        @rule(count=st.integers(1, 3))
        def task_done(self, count):
            assert outcome(self.real.task_done, count) == outcome(self.plain.task_done, count)

        @precondition(lambda self: self.plain.put_count > 3)
        @rule(immediate=st.booleans(), often=st.integers(0, 5))
        def shutdown(self, immediate, often):
            if often == 0:  # or hardly anything else would be tried
                self.real.shutdown(immediate)
                self.plain.shutdown(immediate)

        @rule()
        def look(self):
            real, plain = self.real, self.plain
            size = len(plain.items)
            assert (real.qsize(), real.empty(), real.full()) == (size, size == 0, 0 < plain.maxsize <= size)
            assert (real.put_count, real.got_count) == (plain.put_count, plain.got_count)
            assert (real.unfinished_tasks, real.is_shutdown) == (plain.unfinished, plain.shut)
            assert real.wait_readable(0) is (size > 0 or plain.shut)
            assert real.wait_writable(0) is (plain.shut or not 0 < plain.maxsize <= size)

    return Queues


def test_any_sequence_of_calls_has_the_outcomes_of_a_plain_deque(flavour):
    examples = 15 if flavour.name in queue_kinds.REMOTE else 80  # a call over a socket takes its time
    run_state_machine_as_test(
        machine(flavour.queue), settings=settings(max_examples=examples, stateful_step_count=40, deadline=None)
    )
