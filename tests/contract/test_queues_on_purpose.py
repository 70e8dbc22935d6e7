"""Each row of docs/differences.toml about queues."""

import pickle
import queue
import threading

import pytest

import multitask
from multitask import Queue


class Wrong(Exception):
    pass


class Unloadable:
    def __reduce__(self):
        return (_raise_wrong, ())


def _raise_wrong():
    raise Wrong


@pytest.mark.shared
def test_what_cannot_be_pickled_raises_in_put(flavour):
    q = flavour.queue()
    with pytest.raises(multitask.CannotTravel):
        q.put(threading.Lock())
    with pytest.raises(pickle.PicklingError):  # by its other name
        q.put(threading.Lock())
    assert q.empty()


@pytest.mark.shared
def test_what_cannot_be_rebuilt_raises_cannot_travel_caused_by_its_own_error(flavour):
    q = flavour.queue()
    q.put(Unloadable())
    with pytest.raises(multitask.CannotTravel) as caught:
        q.get()
    assert isinstance(caught.value.__cause__, Wrong)


def test_between_threads_too_what_is_got_is_a_copy_unless_asked_otherwise():
    mine = []
    q = Queue()
    q.put(mine)
    assert q.get() is not mine
    q = Queue(shared=False)
    q.put(mine)
    assert q.get() is mine


@pytest.mark.shared
def test_a_negative_timeout_is_no_wait(flavour):
    q = flavour.queue(1)
    with pytest.raises(queue.Empty):
        q.get(timeout=-1)
    with pytest.raises(ValueError):
        Queue(shared=False).get(timeout=-1)


def test_the_bound_is_fixed(flavour):
    q = flavour.queue(3)
    with pytest.raises(AttributeError):
        q.maxsize = 2
    assert q.maxsize == 3


def test_the_insides_of_the_stdlibs_queue_are_not_there(flavour):
    q = flavour.queue()
    for name in ("queue", "mutex", "not_empty", "_init", "_feed", "_reader"):
        assert not hasattr(q, name)
    with pytest.raises(TypeError, match="subclass"):

        class Lifo(Queue):
            pass


def test_empty_answers_after_close(flavour):
    unused, used, done = flavour.queue(), flavour.queue(), flavour.queue()
    used.put(1)
    done.put(1)
    done.get()
    for q in (unused, used, done):
        q.close()
    assert (unused.empty(), used.empty(), done.empty()) == (True, False, True)


def test_join_thread_may_come_before_close(flavour):
    q = flavour.queue()
    q.join_thread()
    q.put(1)
    assert q.get() == 1
