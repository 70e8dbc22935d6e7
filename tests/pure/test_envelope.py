"""Envelopes within one process: what is plain, what is out of band, what cannot travel and where it sits."""

import gc
import os
import pickle
import socket
import threading
import types
import weakref
from pickle import PickleBuffer

import numpy
import pytest

from multitask import CannotTravel
from multitask._engine import envelope, family
from multitask._engine.envelope import open_sealed, seal, seal_whole


class Importable:
    pass


PLAIN = [
    None,
    True,
    7,
    2**70,
    1.5,
    "text",
    "__main__",
    b"\x93",
    [1, [2, {"a": (3,)}]],
    {"x": {1, 2}},
    list(range(1000)),
]


@pytest.mark.parametrize("thing", PLAIN, ids=lambda thing: repr(thing)[:20])
def test_plain_data_is_one_pickle_that_anybody_can_read(thing):
    data, buffers = seal(thing)
    assert pickle.loads(data) == thing == open_sealed(data, buffers) == open_sealed(seal_whole(thing))
    assert not buffers


def test_shared_and_recursive_parts_stay_so():
    loop = [1]
    loop.append(loop)
    back = open_sealed(*seal({"one": loop, "two": loop}))
    assert back["one"] is back["two"] is back["one"][1]


def test_arrays_travel_beside_the_message_and_stay_writable():
    array = numpy.arange(100_000)
    data, buffers = seal([array, array[:10], "text"])
    assert len(data) < 1000 and [buffer.nbytes for buffer in buffers] == [array.nbytes]
    back = open_sealed(data, [bytearray(buffer) for buffer in buffers])
    assert (back[0] == array).all() and back[0].flags.writeable
    assert (open_sealed(data, [bytes(buffer) for buffer in buffers])[0] == array).all()
    assert (open_sealed(seal_whole([array]))[0] == array).all()


def test_a_bare_buffer_travels_beside_the_message():
    data, buffers = seal(PickleBuffer(bytes(50_000)))
    assert len(buffers) == 1 and bytes(open_sealed(data, buffers)) == bytes(50_000)


def test_what_was_sealed_is_not_kept_alive():
    array = numpy.zeros(100_000)
    seen = weakref.ref(array)
    gc.disable()
    try:
        seal([array])
        with pytest.raises(CannotTravel) as refused:
            seal([array, threading.Lock()])
        del refused
        gc.collect()
        del array
        assert seen() is None
    finally:
        gc.enable()


def generator():
    yield 1


def opened():
    return open(os.devnull)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(threading.Lock, "_thread.lock"), (generator, "generator"), (opened, "_io.TextIOWrapper")],
    ids=["lock", "generator", "file"],
)
def test_what_cannot_travel_is_named_by_its_path(make, kind):
    culprit = make()
    holder = Importable()
    holder.parts = {"deep": [0, culprit]}
    for write in (seal, seal_whole):
        with pytest.raises(CannotTravel, match=r"item\.parts\['deep'\]\[1\]") as refused:
            write(holder, "item")
        assert refused.value.path == "item.parts['deep'][1]" and kind in str(refused.value)
    with pytest.raises(CannotTravel, match="^what was put"):
        seal(culprit, "what was put")
    getattr(culprit, "close", lambda: None)()


def test_a_module_made_at_run_time_travels_and_its_functions():
    module = types.ModuleType("made_here")
    exec("base = 3\ndef f(x): return base + x", module.__dict__)
    assert open_sealed(*seal(module.f))(1) == 4


def test_a_function_brings_its_globals_as_they_were_when_it_was_sealed():
    space = {"__name__": "__main__", "value": 1}
    exec("def read(): return value", space)
    first = seal(space["read"])
    space["value"] = 2
    second = seal(space["read"])
    space["read"] = None
    gc.collect()
    assert (open_sealed(*first)(), open_sealed(*second)()) == (1, 2)


def test_many_lambdas_leave_nothing():
    for number in range(3000):
        open_sealed(*seal(lambda number=number: number))
    sealer = envelope._sealer
    assert sealer is not None
    sealer.definitions.sweep()
    assert len(sealer.definitions.by_object) < 50
    assert len(sealer.definitions.dead) < 50


def test_threads_do_not_share_a_message_under_way():
    wrong = []

    def work(number):
        for _ in range(200):
            fn = open_sealed(*seal(lambda x, number=number: x + number))
            if fn(1) != number + 1:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_damaged_message_is_an_error_that_says_so():
    data, _ = seal(lambda: 1)
    with pytest.raises(CannotTravel, match="could not be rebuilt"):
        open_sealed(data[:-5])


@pytest.mark.skipif(not family.available, reason="descriptors travel on Linux only")
def test_a_socket_travels_and_only_once():
    ours, theirs = socket.socketpair()
    message = seal({"socket": theirs})
    back = open_sealed(*message)["socket"]
    back.sendall(b"through")
    assert ours.recv(100) == b"through"
    with pytest.raises(CannotTravel, match="given it out already"):
        open_sealed(*message)
    for one in (ours, theirs, back):
        one.close()
