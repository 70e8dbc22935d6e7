"""G5: an endless iterator yields at once, is never pulled too far ahead, and a million items leave memory flat."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from pathlib import Path

import pytest
from fault_work import add_one
from faults import VARIANTS, ended, variant
from scripts import CHANNELS, run

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
