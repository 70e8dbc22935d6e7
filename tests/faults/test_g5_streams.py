"""G5: an endless iterator yields at once, is never pulled too far ahead, and a million items leave memory flat."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from pathlib import Path

import fork_beside
import pytest
from fault_work import add_one
from faults import VARIANTS, ended, variant
from scripts import CHANNELS, FORKS_SAID, run

pytestmark = pytest.mark.timeout(120)
ORDERS = ["imap", "imap_unordered"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", VARIANTS)
def test_an_endless_iterator_yields_at_once(name: str, order: str) -> None:
    with variant(name) as make, ended(make(2)) as pool:
        pool.map(add_one, [1, 2])
        begun = time.monotonic()
        results = getattr(pool, order)(add_one, itertools.count())
        first = next(results)
        took = time.monotonic() - begun
        print(f"{name}, {order}: the first after {took * 1000:.1f} ms")
        assert took < 1.0
        assert order == "imap_unordered" or first == 1


class Watched:
    """Endless; notes at each pull how far ahead of the reader it is."""

    def __init__(self) -> None:
        self.pulled = self.yielded = self.most = 0
        self.looked = threading.Semaphore(0)

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> int:
        self.pulled += 1
        self.most = max(self.most, self.pulled - self.yielded)
        self.looked.release()
        return self.pulled


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("buffer", "chunk"), [(1, 1), (2, 1), (7, 1), (64, 1), (12, 4), (10, 4), (4, 4)])
@pytest.mark.parametrize("name", ["native-fork", "pipe-fork"])
def test_pulled_minus_yielded_reaches_the_buffer_and_never_passes_it(
    name: str, buffer: int, chunk: int, order: str
) -> None:
    watched = Watched()
    full = buffer - buffer % chunk  # only whole chunks are pulled
    with variant(name) as make, ended(make(2)) as pool:
        results = getattr(pool, order)(add_one, watched, chunk, buffer=buffer)
        for _ in range(full):
            assert watched.looked.acquire(timeout=30)
        assert watched.pulled == full
        for _ in range(2000):
            next(results)
            # An item has arrived when the reader comes back for the next one: counted after that call began.
            watched.yielded += 1
        assert full <= watched.most <= buffer + 1
        assert results._flow.pulled <= 1999 + buffer
    # `yielded` here lags by the call that is under way: the bound itself is exact in the stream's own numbers.


@pytest.mark.parametrize("order", ORDERS)
def test_the_bound_is_exact_by_the_streams_own_numbers(order: str) -> None:
    with variant("native-fork") as make, ended(make(2)) as pool:
        worst = 0

        def items():
            for number in itertools.count():
                nonlocal worst
                if made:
                    worst = max(worst, made[0]._flow.pulled - made[0]._yielded)
                yield number

        made = deque()
        results = getattr(pool, order)(add_one, items(), buffer=5)
        made.append(results)
        deque(itertools.islice(results, 5000), maxlen=0)
        made.clear()
    assert worst == 5


def test_a_slow_reader_holds_the_iterator_back() -> None:
    watched = Watched()
    with variant("native-fork") as make, ended(make(2)) as pool:
        results = pool.imap(add_one, watched, buffer=3)
        for _ in range(3):
            assert watched.looked.acquire(timeout=30)
        assert not watched.looked.acquire(timeout=0.2), "pulled a fourth, though nobody reads"
        next(results)
        next(results)
        assert watched.looked.acquire(timeout=30)


MEMORY = """
import collections, gc, itertools, os, sys, time
import multitask
def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
with multitask.Pool(2) as pool:
    results = getattr(pool, sys.argv[1])(abs, itertools.count(), int(sys.argv[2]))
    skip = lambda count: collections.deque(itertools.islice(results, count), maxlen=0)
    skip(200_000)
    before = resident()
    begun = time.monotonic()
    skip(1_000_000)
    print(resident() - before, time.monotonic() - begun)
"""


@pytest.mark.parametrize(("order", "chunk"), [("imap", "50"), ("imap_unordered", "50")])
@pytest.mark.parametrize("channel", CHANNELS)
def test_a_million_items_leave_memory_flat(tmp_path: Path, order: str, chunk: str, channel: str) -> None:
    script = run(tmp_path, MEMORY, order, chunk, channel=channel)
    assert script.process.returncode == 0, script.err
    grown, seconds = script.out.split()
    print(f"{channel}, {order}, chunks of {chunk}: {int(grown) / 1024:.0f} KiB more in {float(seconds):.1f} s")
    assert int(grown) < 4 << 20


# --- a child that is forked beside the reader -------------------------------------------------------------------------

HELD_BY_A_THREAD = f"""
import os, sys
sys.path.append({os.path.dirname(fork_beside.__file__)!r})
from fork_beside import fork_beside, threads
from multitask import Executor, Pool

def read(path):
    with open(path) as file:
        return file.read()

what, fifo = sys.argv[1:]
os.mkfifo(fifo)
items = [os.devnull, fifo, *[os.devnull] * 20]
pool = Executor(1, start_method="fork") if what == "map" else Pool(1, start_method="fork")

def cancelling():
    tasks = [pool.submit(read, item) for item in items]
    try:
        for task in tasks:
            yield task.result(20)
    finally:
        for task in tasks:
            task.cancel()

def make():
    results = {{"map": lambda: pool.map(read, items, timeout=20), "imap": lambda: pool.imap(read, items)}}.get(
        what, cancelling
    )()
    next(results)
    return results

def use(results):
    with open(fifo, "w") as file:  # until now the only worker was busy with it
        file.write("x")
    return sum(1 for _ in results)

with pool:
    print(*fork_beside(make, use, threads))
"""


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("what", ["map", "imap", "cancelling"])
def test_a_forked_child_cancels_nothing_of_what_another_thread_reads(tmp_path: Path, what: str, channel: str) -> None:
    """The iterator is dropped in the child: it has no say in the pool's tasks, and needs no thread."""
    if (what, channel) == ("cancelling", "pipe"):
        pytest.skip("a task that is cancelled by hand there: only the native core knows before the hooks")
    fifo = str(tmp_path / "fifo")
    script = run(tmp_path, HELD_BY_A_THREAD, what, fifo, channel=channel, flags=("-W", "error", *FORKS_SAID))
    assert (script.process.returncode, script.out, script.err) == (0, "1 21\n", "")
