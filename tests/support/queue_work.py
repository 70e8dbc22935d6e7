"""What the queue suite has other processes do; importable by name, as spawned ones need it."""

from __future__ import annotations

import os
import signal

from multitask import Queue, ShutDown

LONG_SECONDS = 60.0  # only detects a hang


def put_all(q, items):
    for item in items:
        q.put(item)
    return len(items)


def put_big(q, size):
    q.put(b"x" * size)


def put_and_die(q, item):
    q.put(item)
    os.kill(os.getpid(), signal.SIGKILL)


def echo(inwards, outwards):
    """Send back what comes, until shut down."""
    for item in inwards:
        outwards.put(item)


def consume(q, results):
    """Take until shut down; say what was taken."""
    results.put([os.getpid(), list(q)])


def produce(q, number, count):
    for i in range(count):
        q.put((number, i))


def work_off(q, done):
    for item in q:
        done.put(item * 10)
        q.task_done()


def shut_down(q, immediate=False):
    q.shutdown(immediate)


def close_here(q):
    q.close()
    try:
        q.put(1)
    except ValueError as error:
        return "closed" in str(error)
    return False


def wait_for_the_end(q, ready, outcome):
    """Say what a get that waits for ever ends with."""
    ready.put("here")
    try:
        outcome.put(("got", q.get(timeout=LONG_SECONDS)))
    except ShutDown:
        outcome.put(("shut", None))


def get_of(holder):
    """The queue lies in a dict."""
    return holder["queue"].get(timeout=LONG_SECONDS)


def make_queue(items):
    q = Queue()
    q.put_many(items)
    return q


def make_queue_and_hand_it_over(through, items):
    through.put(make_queue(items))


def same(first, second):
    return first is second


def give_back(q):
    return q


def counts(q):
    return q.put_count, q.got_count, q.qsize(), q.maxsize


KEPT = []


def keep(q):
    KEPT.append(q)


def put_on_the_kept(item):
    KEPT[-1].put(item)


def many_copies(q, count):
    """Receive the queue often, and say how many descriptors this process has more than after the first time."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(count):
        inner = q.get(timeout=LONG_SECONDS)
        inner.put("seen")
        del inner
    return len(os.listdir("/proc/self/fd")) - before
