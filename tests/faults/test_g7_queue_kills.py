"""G7, the queue in shared memory: producers and consumers killed at each step and at random moments harm nothing else.

Every message has a number: none is torn, none comes twice, none is lost but those that a killed consumer had taken.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from multitask import _native

if not _native.available:
    pytest.skip(_native.why_not, allow_module_level=True)

from ring_rounds import Diary, account, consume, killed, number_of, produce, start

from multitask._native.ring import RingQueue, _shut_down

HITS = 50
MESSAGES = 16
SLEEPER = 19
HELD_PUT, HELD_GET = 4, 14  # steps at which a side's lock is held

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Round = Callable[[int, random.Random], bool]


def until_hit(one: Round, seed: int) -> str:
    """Repeat a round until HITS of them say that the victim was killed."""
    chance = random.Random(seed)
    hits = rounds = 0
    while hits < HITS:
        hits += one(rounds, chance)
        rounds += 1
        assert rounds < 40 * HITS, f"hit {hits} times only"
    return f"{hits} hits in {rounds} rounds"


def put_the_rest(queue: RingQueue, diary: Diary) -> None:
    """What an heir of a dead producer does: the queue itself says how far that one came."""
    assert diary.ended <= queue.put_count <= diary.begun
    if queue.put_count:
        diary.end(queue.put_count - 1)
    produce(queue, diary, MESSAGES)


def get_the_rest(queue: RingQueue, diary: Diary) -> None:
    if not queue.is_shutdown:
        queue.shutdown()
    consume(queue, diary)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 8, 9, 10])
def test_a_killed_producer_has_put_a_message_or_not(step: int) -> None:
    def one(number: int, chance: random.Random) -> bool:
        diary, queue = Diary(), RingQueue(0 if number % 3 else MESSAGES)
        victim = start(lambda: produce(queue, diary, MESSAGES, many=number % 2 == 1), step, chance.randrange(2))
        dead = killed(victim)
        put_the_rest(queue, diary)
        assert [number_of(queue.get(timeout=5)) for _ in range(MESSAGES)] == list(range(MESSAGES))
        assert queue.qsize() == 0
        diary.close()
        return dead

    print(f"\nstep {step}: {until_hit(one, step)}")


def test_a_producer_killed_before_it_wakes_the_sleeper() -> None:
    """The sleeper looks by itself: it has everything long before its patience ends."""
    slowest = 0.0

    def one(number: int, chance: random.Random) -> bool:
        nonlocal slowest
        diary, queue = Diary(), RingQueue()
        listener = start(lambda: consume(queue, diary))
        while not queue._waiting()[0]:
            os.sched_yield()
        victim = start(lambda: produce(queue, diary, 1), 7)
        dead = killed(victim)
        begun = time.monotonic()
        while not diary.counts()[0] and time.monotonic() - begun < 5:
            time.sleep(0.001)
        slowest = max(slowest, time.monotonic() - begun)
        queue.shutdown()
        assert not killed(listener)
        assert account(queue, diary, 0) == 0
        diary.close()
        return dead

    print(f"\nstep 7: {until_hit(one, 7)}, slowest {slowest:.3f} s")
    assert slowest < 1.5


@pytest.mark.parametrize("step", [11, 12, 13, 14, 15, 16, 17, 18])
def test_a_killed_consumer_takes_at_most_what_it_was_getting(step: int) -> None:
    lost = 0

    def one(number: int, chance: random.Random) -> bool:
        nonlocal lost
        diary, queue = Diary(), RingQueue()
        many = number % 2 == 1
        produce(queue, diary, MESSAGES)
        queue.shutdown()
        dead = killed(start(lambda: consume(queue, diary, many), step, chance.randrange(2)))
        consume(queue, diary)
        gone = account(queue, diary, dead, 5 if many else 1)
        assert step >= 14 or many or gone == 0, "what was not committed is not gone"
        assert step not in (14, 15, 16, 17) or gone >= dead, "what was committed is gone, and is counted"
        lost += gone
        diary.close()
        return dead

    print(f"\nstep {step}: {until_hit(one, step)}, {lost} messages gone with their takers")


def test_a_killed_sleeper_is_one_sleeper_too_many_and_no_more() -> None:
    def one(number: int, chance: random.Random) -> bool:
        diary, queue = Diary(), RingQueue(1 if number % 2 else 0)
        if number % 2:
            diary.begin(0)
            queue.put((0, ""))
            diary.end(0)
        victim = start(lambda: produce(queue, diary, 2) if number % 2 else consume(queue, diary), SLEEPER)
        dead = killed(victim)
        assert max(queue._waiting()) == dead
        get_the_rest(queue, diary)
        assert account(queue, diary, 0) == 0
        diary.close()
        return dead

    print(f"\nstep {SLEEPER}: {until_hit(one, SLEEPER)}")


@pytest.mark.parametrize("step", [20, 21, 22])
def test_killed_while_it_gives_a_large_ring_back(step: int) -> None:
    def one(number: int, chance: random.Random) -> bool:
        queue = RingQueue()
        for _ in range(20):
            queue.put(bytes(600_000))
        dead = killed(start(lambda: [queue.get() for _ in range(20)], step))
        queue.put("next")
        assert queue.get(timeout=5) == "next" and queue.qsize() == 0
        assert os.fstat(queue.fd).st_blocks * 512 < 5 << 20
        return dead

    print(f"\nstep {step}: {until_hit(one, step)}")


@pytest.mark.parametrize("step", [23, 24, 25])
def test_killed_while_it_shuts_the_queue_down(step: int) -> None:
    def one(number: int, chance: random.Random) -> bool:
        diary, queue = Diary(), RingQueue()
        produce(queue, diary, 10)
        number_of(queue.get())
        queue.task_done()
        dead = killed(start(lambda: queue.shutdown(immediate=True), step))
        with pytest.raises(_shut_down()):
            queue.get(timeout=5)
        with pytest.raises(_shut_down()):
            queue.put(1)
        queue.join(5)
        assert queue.qsize() == 0
        with pytest.raises(ValueError):
            queue.task_done()
        assert os.fstat(queue.fd).st_blocks * 512 < 1 << 20
        diary.close()
        return dead

    print(f"\nstep {step}: {until_hit(one, step)}")


def test_killed_after_it_said_that_a_task_is_done() -> None:
    def one(number: int, chance: random.Random) -> bool:
        queue = RingQueue()
        queue.put(1)
        dead = killed(start(lambda: (queue.get(), queue.task_done()), 26))
        queue.join(5)
        return dead

    print(f"\nstep 26: {until_hit(one, 26)}")


@pytest.mark.parametrize("step", [27, 28, 29, 30])
def test_killed_while_it_repairs(step: int) -> None:
    """A first victim dies with the lock, the second while it puts right what the first has left."""

    def one(number: int, chance: random.Random) -> bool:
        diary, queue = Diary(), RingQueue()
        putting = step in (27, 28)
        if putting:
            first = start(lambda: produce(queue, diary, MESSAGES), HELD_PUT, chance.randrange(6))
        else:
            produce(queue, diary, MESSAGES)
            queue.shutdown()
            first = start(lambda: consume(queue, diary), HELD_GET, chance.randrange(6))
        assert killed(first)
        if putting and queue.put_count:
            diary.end(queue.put_count - 1)
        second = start(lambda: produce(queue, diary, MESSAGES) if putting else consume(queue, diary), step)
        dead = killed(second)
        if putting:
            put_the_rest(queue, diary)
        get_the_rest(queue, diary)
        account(queue, diary, 0 if putting else 2)
        diary.close()
        return dead

    print(f"\nstep {step}: {until_hit(one, step)}")


def test_a_thousand_random_kills() -> None:
    """A producer and two consumers, one of which dies at any moment."""
    chance = random.Random(99)
    early = lost = 0
    for number in range(1000):
        queue = RingQueue(0 if number % 3 else 5)
        diary = Diary()
        parties = [start(partial(produce, queue, diary, MESSAGES, number % 2 == 1))]
        parties += [start(partial(consume, queue, diary, number % 4 > 1)) for _ in range(2)]
        shot = threading.Timer(chance.random() * 0.006, os.kill, (parties[number % 3], signal.SIGKILL))
        shot.start()
        shot.join()  # before anybody is reaped: a pid may be given to another then
        dead = [killed(parties[0])]
        if dead[0]:
            put_the_rest(queue, diary)
        queue.shutdown()
        dead += [killed(pid) for pid in parties[1:]]
        consume(queue, diary)
        lost += account(queue, diary, sum(dead[1:]), 5 if number % 4 > 1 else 1)
        assert queue.put_count == MESSAGES
        early += sum(dead)
        diary.close()
    print(f"\n{early} of 1000 killed before they ended, {lost} messages gone with their takers")
    assert early > 300
