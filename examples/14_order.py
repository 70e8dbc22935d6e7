"""Chapter 14: workers finish in any order; results come in the order you ask for."""

import itertools
import threading

from multitask import Pool

# Three threads, the first of which may only finish after the last: the order of finishing is fixed by a gate here,
# elsewhere it is the scheduler's.
gate = threading.Event()


def work(n):
    if n == 0:
        gate.wait()
    if n == 2:
        gate.set()
    return n


with Pool(3, kind="thread") as pool:
    as_they_come = list(pool.imap_unordered(work, range(3)))
print("as they came:", as_they_come)
assert as_they_come.index(2) < as_they_come.index(0) or sorted(as_they_come) == [0, 1, 2]

gate.clear()
with Pool(3, kind="thread") as pool:
    in_order = list(pool.imap(work, range(3)))
print("in order:    ", in_order)
assert in_order == [0, 1, 2]

# The same with processes, from an endless input: no more than `buffer` items are pulled ahead.
pulled = itertools.count()
with Pool(2) as pool:
    squares = pool.imap(lambda n: n * n, pulled, buffer=8)
    first = list(itertools.islice(squares, 5))
    squares.close()
print("of an endless input:", first)
assert first == [0, 1, 4, 9, 16]
assert next(pulled) <= 5 + 8

# When several fail, it is always the same error: that of the first item.
with Pool(2) as pool:
    try:
        pool.map(int, ["1", "first", "2", "second"], chunksize=1)
    except ValueError as error:
        print("always the first error:", error)
        assert "'first'" in str(error)
