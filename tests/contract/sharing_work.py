"""What workers do with shared memory."""

from __future__ import annotations

import ctypes
import os


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


class Counted:
    """Counts in a Counter how often it is unpickled."""

    def __init__(self, loads, content):
        self.loads = loads
        self.content = content

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.loads.add()


def same(x):
    return x


def add_many(counter, n):
    for _ in range(n):
        counter.add()


def increment(value, n=1):
    for _ in range(n):
        with value.get_lock():
            value.value += 1


def fill(array, items):
    array[:] = items


def set_point(point):
    point.x, point.y = 7, point.y * 2


def first_and_flags(array):
    return array[0], array.flags.writeable, type(array).__name__


def try_to_write(array):
    try:
        array[0] = 1
    except (ValueError, TypeError) as error:
        return type(error)
    return None


def add_to_all(array, n):
    array += n


def content_of(shared):
    return id(shared.value), os.getpid(), shared.value.content


def put(queue, item):
    queue.put(item)


def get_and_add(queue, n):
    queue.get().add(n)


def make_counter(n):
    from multitask import Counter

    return Counter(n)


def make_shared(n):
    import numpy

    from multitask import share

    return share(numpy.arange(n))


def lives_in(array):
    """The inode of the file under an array or memoryview."""
    return os.fstat(array._memory.fd).st_ino


def where(counter):
    """A sealed Counter's address differs from process to process; its arena is one."""
    return counter.home.key
