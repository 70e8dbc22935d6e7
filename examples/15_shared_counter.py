"""Chapter 15: several workers change one number, and the sum is right."""

import numpy

from multitask import Counter, Pool, Value, share

# A global belongs to each process alone: what workers add to it is lost.
ordinary = 0


def add_to_global(n):
    global ordinary
    for _ in range(n):
        ordinary += 1


# Reading and writing are two steps, between which others come in. Here the unlucky order is made, not waited for.
def lost_update(value):
    mine, theirs = value.value, value.value  # both have read the same number
    value.value = mine + 1
    value.value = theirs + 1  # one of the two is lost


def add_under_lock(value, n):
    for _ in range(n):
        with value.get_lock():
            value.value += 1


def add(counter, n):
    for _ in range(n):
        counter.add()


def fill(rows, number):
    rows[:] = number


with Pool(4) as pool:
    pool.map(add_to_global, [1000] * 4)
    print("a global after 4 x 1,000:", ordinary)
    assert ordinary == 0

    value = Value("i", 0)
    lost_update(value)
    print("read, read, write, write:", value.value)
    assert value.value == 1

    value = Value("i", 0)
    pool.starmap(add_under_lock, [(value, 1000)] * 4)
    print("a Value under its lock:  ", value.value)
    assert value.value == 4000

    counter = Counter(0)
    pool.starmap(add, [(counter, 1000)] * 4)
    print("a Counter:               ", counter.get())
    assert counter.get() == 4000

    # Where each worker has a part of its own nothing has to be locked.
    table = share.zeros((4, 3), numpy.int64)
    pool.starmap(fill, [(table[row], row) for row in range(4)])
    print("an array, a row for each:", table.tolist())
    assert table.sum() == 18
