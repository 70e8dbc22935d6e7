"""Shared memory when its users die: it is freed with the last of them, whoever that is and however it ends."""

from __future__ import annotations

import gc
import os
import pickle
import random
import signal
import sys
import time

import fork_beside
import numpy
import pytest
import sharing_children as children
from scripts import CHANNELS, FORKS_SAID, METHODS, run

from multitask import Counter, Pool, Value, _native, share
from multitask._engine import family
from multitask._engine.memory import memory, store

GRACE_SECONDS = 5.0

native_only = pytest.mark.skipif(not _native.available, reason=_native.why_not or "native")


def arenas():
    from multitask._engine.memory.native import arenas

    return arenas


def memfds() -> list[str]:
    """The files in memory that this process has open, or has mapped."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    with open("/proc/self/maps") as maps:
        found += [line.split()[-2] for line in maps if "memfd:multitask-memory" in line]
    return [name for name in found if "memfd:multitask-memory" in name]


def owned() -> dict[str, int]:
    """What shared objects take, as seen from the root of the family."""
    gc.collect()
    broker = family._broker
    found = {
        "descriptors": len(os.listdir("/proc/self/fd")) - len(family.descriptors()),
        "blocks": len(memfds()),
        "mapped": len(memory._mapped),
        "lent": 0 if broker is None else len(broker.entries),
    }
    if _native.available:
        made = [arena for made in arenas().made.values() for arena in made]
        found["arenas"] = len(made)
        found["lost cells"] = sum(arena.cells - arena.sweep() - arena.referred for arena in made)
    return found


def settled(wanted: dict[str, int]) -> dict[str, int]:
    """What is owned once the kernel and the broker are through with the dead."""
    end = time.monotonic() + GRACE_SECONDS
    while (found := owned()) != wanted and time.monotonic() < end:
        time.sleep(0.01)
    return found


# --- the last user ----------------------------------------------------------------------------------------------------


@native_only
@pytest.mark.slow
def test_a_thousand_users_killed_at_random_moments_leave_nothing(record_property):
    random.seed(7)
    first: dict[str, int] = {}
    heard = 0
    for number in range(1001):
        child = children.Child(children.use_all)
        counter, value, shared = Counter(0), Value("i", 0), share([1, 2, 3])
        array = share(numpy.zeros(1000), writable=True)
        child.give(counter, value, array, shared)
        if number % 4:
            time.sleep(random.uniform(0, 0.004))  # the moment is what is random, no outcome hangs on it
        elif child.hear():
            heard += 1
        child.kill()
        assert child.end() == -signal.SIGKILL
        assert value.acquire(timeout=5), "the dead one's lock was not had"  # before it is let go
        value.release()
        del counter, value, array, shared, child
        if not number:
            first = owned()
            assert first["blocks"] == 0
    last = settled(first)
    record_property("owned", last)
    print(f"\n1,000 killed, {heard} known to be at work: {last}")
    assert last == first and heard == 251


@native_only
@pytest.mark.slow
def test_dead_members_make_room_for_new_ones(tmp_path):
    """More users of one arena than it has records, one after the other, all forked by a small process."""
    script = run(tmp_path, MANY_MEMBERS)
    assert (script.process.returncode, script.out, script.err) == (0, "3\n", "")


MANY_MEMBERS = f"""
import os
import sys
sys.path.append({os.path.dirname(children.__file__)!r})
import sharing_children as children
from multitask import Counter
counter = Counter(0)
for _ in range(2100):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
child = children.Child(lambda counter, say: counter.add(3))
child.give(counter)
assert child.end() == 0
print(counter.get())
"""


@native_only
@pytest.mark.parametrize("when", ["no descriptor", "late", "late and the first"])
def test_a_child_keeps_what_it_had_however_it_was_forked(tmp_path, when):
    """Without a descriptor for it, or with objects that came after the arenas were asked to prepare for the fork."""
    script = run(tmp_path, KEEPS, when)
    assert (script.process.returncode, script.out, script.err) == (0, "7 8 True\nFalse\n", "")


KEEPS = """
import os
import pickle
import resource
import sys

when = sys.argv[1]
kept = []


def make():
    from multitask import Counter

    kept.append(Counter(7))


def prepare():  # called after what was registered later
    if when.startswith("late") and not kept:
        make()


os.register_at_fork(before=prepare)

from multitask import Counter, Value
from multitask._engine.memory.native import arenas


def churn():
    for made in arenas.made.values():
        for arena in made:
            arena.sweep()
    return [Counter(99) for _ in range(2000)]


if when != "late and the first":
    first = Counter(1)
if when == "no descriptor":
    make()
    value = Value("q", 0)
elif when == "late":
    value = Value("q", 0)
else:
    value = None
read, write = os.pipe()
read_back, write_back = os.pipe()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if when == "no descriptor":
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    full = next(limit for limit in range(len(taken) + 1) if limit not in taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (full, hard))
pid = os.fork()
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
if not pid:
    os.read(read, 1)
    (counter,) = kept
    got = counter.get(), counter.add()
    if value is not None:
        with value.get_lock():
            value.value += 1
    others = [Counter(5) for _ in range(100)]
    print(*got, all(other.get() == 5 for other in others), flush=True)
    os.write(write_back, pickle.dumps(counter))
    os.read(read, 1)
    grandchild = os.fork()
    if not grandchild:  # has descriptors, and so a membership of its own
        print(any(arena.lent for arena in arenas.joined.values()), flush=True)
        os._exit(0)
    os._exit(os.waitpid(grandchild, 0)[1])
kept.clear()
new = churn()
os.write(write, b"x")
assert pickle.loads(os.read(read_back, 4096)).get() == 8
os.write(write, b"x")
assert os.waitpid(pid, 0)[1] == 0
assert all(counter.get() == 99 for counter in new)
if value is not None:
    with value.get_lock():
        assert value.value == 1
"""


@pytest.mark.parametrize("method", METHODS)
def test_workers_killed_with_arrays_in_hand_leave_nothing(method):
    before = owned()
    with Pool(2, start_method=method) as pool:
        for _ in range(10):
            array, counter = share(numpy.ones(100_000)), Counter(0)
            tasks = [pool.submit(_die_with, array, counter) for _ in range(2)]
            assert {type(task.exception()).__name__ for task in tasks} == {"WorkerLost"}
            assert counter.get() == 2
            del array, counter, tasks
    del pool
    after = settled(before)
    for name in ("blocks", "mapped", "lost cells"):
        assert after.get(name) == before.get(name), name


def _die_with(array, counter):
    assert array.sum() == 100_000
    counter.add()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("core", ["native", "portable"])
def test_what_was_sent_and_never_read_is_freed_with_its_task(core, monkeypatch):
    """A task that is cancelled before it began: its handles are never read."""
    if core == "native" and not _native.available:
        pytest.skip(_native.why_not)
    monkeypatch.setattr(_native, "available", core == "native")
    with Pool(1) as pool:
        held = pool.submit(time.sleep, 0.3)
        array = share(numpy.ones(100_000))
        place = os.fstat(array._memory.fd).st_ino
        task = pool.submit(_die_with, array, None)
        assert task.cancel()
        del array, task
        assert gone(place)
        held.result()


def gone(place: int) -> bool:
    """Whether this process, root of the family, lets go of a file in the end."""
    end = time.monotonic() + GRACE_SECONDS
    while (held := _holds(place)) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)
    return not held


def test_an_array_is_freed_with_its_last_user_and_not_before():
    array = share(numpy.arange(100_000))
    child = children.Child(_hold_until_killed)
    child.give(array)
    assert child.hear() == b"here\n"
    place = os.fstat(array._memory.fd).st_ino
    data = pickle.dumps(array)  # counts until it is read
    del array
    gc.collect()
    child.kept.clear()
    child.kill()
    child.end()
    array = pickle.loads(data)
    assert array[99_999] == 99_999 and os.fstat(array._memory.fd).st_ino == place
    del array
    assert gone(place)


def _hold_until_killed(array, say):
    say(b"here")
    signal.pause()


def test_a_reader_after_the_makers_death():
    """Made in a child, which is killed before anybody has read the handles."""
    family.lend(0)  # this process is the root
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            things = (share(numpy.arange(1000)), Counter(41), Value("d", 2.5), share({"a": 1}), share(b"abc"))
            data = pickle.dumps(things)
            os.write(write, len(data).to_bytes(8, "little") + data)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    os.close(write)
    data = os.read(read, int.from_bytes(os.read(read, 8), "little"))
    os.close(read)
    array, counter, value, shared, view = pickle.loads(data)
    assert array.sum() == 499_500 and counter.add() == 42 and shared.value == {"a": 1} and bytes(view) == b"abc"
    with value.get_lock():
        value.value *= 2
    assert value.value == 5.0


def test_an_object_that_is_kept_for_later_tasks_goes_with_the_last_handle():
    with Pool(1) as pool:
        shared = share(list(range(10_000)))
        first = pool.apply(_identity_of_value, (shared,))
        assert pool.apply(_identity_of_value, (shared,)) == first  # no Shared was left in the worker in between
        place = os.fstat(shared._block.fd).st_ino
        assert pool.apply(_holds, (place,))
        del shared
        end = time.monotonic() + GRACE_SECONDS
        while pool.apply(_holds, (place,)) and time.monotonic() < end:
            time.sleep(0.01)
        assert not pool.apply(_holds, (place,))


def _identity_of_value(shared):
    return id(shared.value)


def _holds(inode):
    """Whether this process has the file open or mapped."""
    fds = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds.append(os.stat(f"/proc/self/fd/{fd}").st_ino)
        except OSError:
            pass
    with open("/proc/self/maps") as maps:
        return inode in fds or any(line.split()[4] == str(inode) for line in maps if "memfd" in line)


@native_only
def test_what_a_thread_alone_holds_is_not_given_up_by_a_forked_child(tmp_path):
    """The child drops it before it is an heir: the record it would strike the use out of is its parent's."""
    script = run(tmp_path, HELD_BY_A_THREAD, flags=("-W", "error", *FORKS_SAID))
    assert (script.process.returncode, script.out, script.err) == (0, "1000 0\n", "")


HELD_BY_A_THREAD = f"""
import gc, sys, time
sys.path.append({os.path.dirname(fork_beside.__file__)!r})
import threading
from multitask import Counter, Pool
from multitask._engine.memory.native import arenas

def start(counter):
    import builtins, sys, threading
    sys.path.append({os.path.dirname(fork_beside.__file__)!r})
    from fork_beside import fork_beside
    box, forked, go, out = [counter], threading.Event(), threading.Event(), []
    def use(counter):
        forked.set()
        go.wait()
        return counter.add(1000)
    thread = threading.Thread(target=lambda: out.append(fork_beside(box.pop, use)))
    builtins.beside = thread, forked, go, out
    thread.start()

def forked():
    import builtins
    assert builtins.beside[1].wait(20)

def finish():
    import builtins
    thread, _, go, out = builtins.beside
    go.set()
    thread.join()
    return out[0]

with Pool(1, start_method="fork") as pool:
    counter = Counter()
    pool.apply(start, (counter,))
    (arena,) = [arena for made in arenas.made.values() for arena in made]
    del counter
    end = time.monotonic() + 10
    while arena.referred and time.monotonic() < end:
        gc.collect()
    pool.apply(forked)
    fresh = [Counter() for _ in range(arena.sweep())]
    code, total = pool.apply(finish)
    assert code == 0
    print(total, sum(counter.get() for counter in fresh))
"""


# --- counters and locks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["native", "portable"])
def test_a_million_adds_from_four_processes_are_exact(core, monkeypatch):
    if core == "native" and not _native.available:
        pytest.skip(_native.why_not)
    monkeypatch.setattr(_native, "available", core == "native")
    each = 250_000 if core == "native" else 2_500
    counter = Counter(0)
    started = [children.Child(_add) for _ in range(4)]
    for child in started:
        child.give(counter, each)
    assert [child.end() for child in started] == [0, 0, 0, 0]
    assert counter.get() == 4 * each


def _add(counter, n, say):
    for _ in range(n):
        counter.add()


def test_a_process_killed_while_it_adds_has_added_or_has_not():
    random.seed(3)
    for _ in range(100):
        counter = Counter(0)
        done = share.zeros(3, "i8")
        started = [children.Child(_add_and_note) for _ in range(3)]
        for number, child in enumerate(started):
            child.give(counter, done, number)
        for child in started:
            assert child.hear()
        time.sleep(random.uniform(0, 0.002))
        for child in started:
            child.kill()
        for child in started:
            child.end()
        noted = int(done.sum())
        assert noted <= counter.get() <= noted + 3


def _add_and_note(counter, done, number, say):
    say(b"here")
    while True:
        counter.add()
        done[number] += 1


@pytest.mark.parametrize("core", ["native", "portable"])
def test_the_lock_of_a_killed_holder_is_had_within_a_second(core, monkeypatch):
    if core == "native" and not _native.available:
        pytest.skip(_native.why_not)
    monkeypatch.setattr(_native, "available", core == "native")
    slowest = 0.0
    for _ in range(20):
        value = Value("i", 0)
        child = children.Child(_hold_lock)
        child.give(value)
        assert child.hear()
        assert not value.acquire(block=False)
        begun = time.monotonic()
        child.kill()
        assert value.acquire(timeout=30)
        slowest = max(slowest, time.monotonic() - begun)
        value.release()
        child.end()
    print(f"\nhad at most {slowest * 1e3:.1f} ms after the kill")
    assert slowest < 1.0


def _hold_lock(value, say):
    value.acquire()
    value.acquire()
    say(b"held")
    signal.pause()


def test_ctrl_c_reaches_who_waits_for_a_lock():
    value = Value("i", 0)
    child = children.Child(_hold_lock)
    child.give(value)
    assert child.hear()
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            value.acquire(timeout=60)
    finally:
        signal.signal(signal.SIGALRM, previous)
        child.kill()
        child.end()


# --- scripts ----------------------------------------------------------------------------------------------------------

SCRIPT = """
import ctypes, multiprocessing, sys
from multitask import Array, Counter, Pool, Value, share

class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]

class Payload:
    def __init__(self, n):
        self.n = n

def change(point, points, counter, shared):
    point.x += shared.value.n
    points[1].y = 2.5
    counter.add(lambda_sum(1, 2))
    return point

lambda_sum = lambda a, b: a + b
total = Counter(0)

with Pool(1, start_method=sys.argv[1]) as pool:
    point, points, counter = Value(Point, 1, 2.0), Array(Point, 2), Counter(1)
    shared = share(Payload(4))
    back = pool.apply(change, (point, points, counter, shared))
    assert isinstance(shared.value, Payload)
    pool.map(lambda n: total.add(n), range(10))
print(point.x, back.x, type(back.get_obj()) is Point, points[1].y, counter.get(), total.get())
"""


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("method", METHODS)
def test_types_of_main_travel_from_an_unguarded_script(tmp_path, method, channel):
    script = run(tmp_path, SCRIPT, method, channel=channel)
    assert (script.out, script.err) == ("5 5 True 2.5 4 45\n", "")


def test_nothing_has_a_name(tmp_path):
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    things = share(numpy.ones(10_000)), Counter(0), Value("i", 0), share([1])
    after = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    assert not {name for name in after - before if str(os.getpid()) in name} and things
    assert store().__name__ in sys.modules
