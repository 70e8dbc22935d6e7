"""Value, Array, Counter and share() as items of multitask's own queues, of each kind."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys

import numpy
import pytest
import sharing_work as work
from queue_kinds import HANG_SECONDS, REMOTE

from multitask import Array, CannotTravel, Counter, Pipe, Pool, Queue, RawValue, Value, share


def _array():
    return share(numpy.arange(1000.0))


def _writable():
    return share(numpy.zeros(1000), writable=True)


# How to make one, how to change it, and what it comes to then.
THINGS = {
    "counter": (lambda: Counter(5), lambda it: it.add(2), lambda it: it.get(), 7),
    "value": (lambda: Value("i", 3), lambda it: work.increment(it, 2), lambda it: it.value, 5),
    "array": (lambda: Array("d", [1, 2]), lambda it: work.fill(it, [3, 4]), lambda it: it[:], [3, 4]),
    "large array": (lambda: Array("d", 100_000), lambda it: work.fill(it, [1] * 100_000), lambda it: sum(it[:]), 1e5),
    "raw value": (lambda: RawValue("i", 1), lambda it: setattr(it, "value", 9), lambda it: it.value, 9),
    "writable numpy array": (_writable, lambda it: work.add_to_all(it, 2), lambda it: it.sum(), 2000),
    "numpy array": (_array, lambda it: None, lambda it: (it.sum(), it.flags.writeable), (499_500, False)),
    "bytes": (lambda: share(b"abc"), lambda it: None, lambda it: (bytes(it), it.readonly), (b"abc", True)),
    "object": (lambda: share({"a": [1]}), lambda it: None, lambda it: it.value, {"a": [1]}),
}


@pytest.fixture
def near(flavour):
    if flavour.name in REMOTE:
        pytest.skip("refused, see below")
    return flavour


@pytest.fixture(params=THINGS)
def thing(request):
    return THINGS[request.param]


def test_what_comes_out_is_the_same_memory(near, thing):
    make, change, look, expected = thing
    q = near.queue()
    one = make()
    q.put(one)
    same = q.get(timeout=HANG_SECONDS)
    assert (same is one) == (not near.shared)
    change(same)
    assert look(one) == look(same) == expected


def test_the_queue_keeps_it_when_nobody_else_does(near, thing):
    make, change, look, expected = thing
    q = near.queue()
    q.put(make())
    q.put({"in": [make()]})
    gc.collect()
    others = [Counter(99) for _ in range(100)], [Array("d", 2) for _ in range(100)]
    first, second = q.get(timeout=HANG_SECONDS), q.get(timeout=HANG_SECONDS)["in"][0]
    for it in (first, second):
        change(it)
        assert look(it) == expected
    del others


@pytest.mark.shared
def test_from_a_worker_that_has_ended_since(flavour, thing):
    make, change, look, expected = thing
    q = flavour.queue()
    with Pool(1) as pool:
        pool.submit(lambda: q.put(make())).result(HANG_SECONDS)
    it = q.get(timeout=HANG_SECONDS)
    change(it)
    assert look(it) == expected


@pytest.mark.shared
def test_into_a_worker_and_changed_there(flavour, thing):
    make, change, look, expected = thing
    q, one = flavour.queue(), make()
    with Pool(1) as pool:
        task = pool.submit(lambda: change(q.get(timeout=HANG_SECONDS)))
        q.put(one)
        task.result(HANG_SECONDS)
    assert look(one) == expected


@pytest.mark.shared
def test_beside_something_that_only_the_second_try_can_pickle(flavour):
    """What the standard pickler refuses is tried again by other means: the handles must count then, too."""
    q = flavour.queue()
    q.put([Counter(5), {"a": 1}.keys(), _array()])
    gc.collect()
    others = [Counter(99) for _ in range(100)]
    counter, keys, array = q.get(timeout=HANG_SECONDS)
    assert (counter.get(), list(keys), array.sum()) == (5, ["a"], 499_500)
    del others


def test_in_a_result_beside_something_that_only_the_second_try_can_pickle():
    with Pool(1) as pool:
        made = [pool.submit(lambda: [Counter(5), {"a": 1}.keys()]) for _ in range(20)]
        results = [task.result(HANG_SECONDS) for task in made]
        assert [counter.get() for counter, _ in results] == [5] * 20


# --- between machines ---------------------------------------------------------------------------------------


@pytest.fixture(params=REMOTE)
def remote(request):
    with Queue(shared=request.param == "remote").serve(authkey="key of the tests") as server:
        with Queue.connect(server.address, authkey="key of the tests") as client:
            yield client


def test_a_queue_between_machines_refuses_it_at_once(remote, thing):
    make = thing[0]
    for item, where in ((make(), "item"), ({"in": [make()]}, r"item\['in'\]\[0\]")):
        with pytest.raises(CannotTravel, match=f"{where}(.|\n)*one machine(.|\n)*send what is in them"):
            remote.put(item)
    with pytest.raises(CannotTravel) as caught:
        remote.put_many([1, make(), 2])
    assert caught.value.done == 1
    assert remote.get_many() == [1]


def test_and_everything_else_that_is_a_descriptor(remote):
    ends = [*Pipe(), socket.socket()]
    for thing in (*ends, Queue(), Queue(shared=False)):
        with pytest.raises(CannotTravel):
            remote.put(thing)
    for end in ends:
        end.close()
    assert remote.qsize() == 0


def test_what_is_in_it_can_be_sent(remote):
    for plain in (_array().sum(), bytes(share(b"abc")), Value("i", 3).value, share({"a": 1}).value):
        remote.put(plain)
        assert remote.get() == plain
    remote.put(numpy.array(_writable()))
    assert (remote.get() == 0).all()


def test_an_item_of_the_served_queue_that_cannot_go_is_an_error_at_the_client():
    q = Queue()
    with q.serve(authkey="key of the tests") as server:
        with Queue.connect(server.address, authkey="key of the tests") as client:
            q.put_many([Counter(1), "next"])
            with pytest.raises(Exception, match="CannotTravel"):
                client.get()
            assert client.get() == "next"


STRANGER = """
import sys
from multitask import Queue
q = Queue()
with q.serve(authkey="key of the tests") as server:
    print(server.address[1], flush=True)
    sys.stdin.read()
    print(q.qsize(), q.get(timeout=0), flush=True)
"""


def test_a_strangers_queue_gets_nothing_that_it_could_not_open(thing):
    command = [sys.executable, "-c", STRANGER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger:
        port = int(stranger.stdout.readline())
        with Queue.connect(("127.0.0.1", port), authkey="key of the tests") as client:
            with pytest.raises(CannotTravel):
                client.put(thing[0]())
            client.put("all")
        assert stranger.communicate(timeout=HANG_SECONDS)[0] == "1 all\n"
