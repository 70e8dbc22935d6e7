"""A script whose own functions and classes go through envelopes to other processes and back; see test_envelope.py.

Run as ``python envelope_program.py METHOD``, by ``-c`` and from stdin. It prints nothing when all is well.
"""

import dataclasses
import enum
import multiprocessing
import os
import sys

from multitask import Pool
from multitask._engine import envelope

offset = 5


class Plain:
    def __init__(self, value):
        self.value = value

    def total(self):
        return self.value + offset


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2


class Failure(Exception):
    def __init__(self, what, more):
        super().__init__(what)
        self.more = more


def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)


def nested(n):
    def inner(k):
        return k if k == 0 else inner(k - 1) + n

    return inner


def echo(data, buffers):
    """In another process: open, look, seal again."""
    thing = envelope.open_sealed(data, buffers)
    called = thing(3) if callable(thing) and not isinstance(thing, type) else None
    again, more = envelope.seal((os.getpid(), type(thing).__name__, called, thing))
    return again, [bytes(buffer) for buffer in more]


def echo_for_ever(pipe):
    while (message := pipe.recv()) is not None:
        pipe.send(echo(*message))


def sealed(thing):
    data, buffers = envelope.seal(thing)
    return data, [bytes(buffer) for buffer in buffers]


def check(there):
    def round_trip(thing):
        pid, name, called, back = envelope.open_sealed(*there(*sealed(thing)))
        assert pid != os.getpid()
        return name, called, back

    name, _, back = round_trip(Plain(3))
    assert (name, type(back), back.total()) == ("Plain", Plain, 8)
    for same in (Plain, Colour, Point, Failure, Colour.RED):
        assert round_trip(same)[2] is same, same
    assert round_trip(Point(1))[2] == Point(1)
    assert round_trip([Point(1), Colour.RED, {"a": Plain}])[2][1:] == [Colour.RED, {"a": Plain}]
    error = round_trip(Failure("what", [1]))[2]
    assert (type(error), error.args, error.more) == (Failure, ("what",), [1])
    assert round_trip(factorial)[1:] == (6, factorial)
    assert round_trip(lambda x: x + offset)[1] == 8
    assert round_trip(nested(10))[1] == 30
    assert round_trip(nested(10))[2](2) == 20
    born = type("Born", (Plain,), {"extra": 1})
    assert round_trip(born(1))[2].__class__ is born


def in_process(method):
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=echo_for_ever, args=(theirs,))
    process.start()

    def there(*message):
        ours.send(message)
        return ours.recv()

    check(there)
    ours.send(None)
    process.join()


def same_class_by_either_way(pool):
    """A class that came as an argument and one that came in an envelope are one class in the worker."""
    message = sealed(Plain(1))
    assert pool.apply(lambda plain: isinstance(envelope.open_sealed(*message), type(plain)), (Plain(2),))
    back = envelope.open_sealed(*pool.apply(lambda plain: sealed(plain), (Plain(2),)))
    assert type(back) is Plain


def in_pool(method):
    with Pool(1, start_method=method) as pool:
        check(lambda *message: pool.apply(echo, message))
        same_class_by_either_way(pool)
    with Pool(1, start_method=method) as pool:  # the envelope first
        message = sealed(Plain(1))
        pool.apply(lambda: envelope.open_sealed(*message).total())
        same_class_by_either_way(pool)


if __name__ == "__main__":
    ways = {"pool": in_pool, "process": in_process}
    way, method = (sys.argv[1:] + os.environ.get("ENVELOPE", "").split())[-2:]
    ways[way](method)
