"""Pipe, Listener, Client and managers as programs use them, and what ours can do besides."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from multiprocessing import AuthenticationError, managers
from multiprocessing import connection as theirs
from pathlib import Path

import numpy
import pytest

from multitask import BaseManager, CannotTravel, Client, Listener, Manager, Pipe, Pool

METHODS = ["fork", "spawn", "forkserver"]


class Point:
    def __init__(self, x):
        self.x = x

    def get(self):
        return self.x


def send_back(pipe):
    pipe.send((os.getpid(), pipe.recv()))
    return os.getpid()


def fill(things):
    numbers, names, queue, space, lock = things
    with lock:
        numbers.append(os.getpid())
        names["here"] = os.getpid()
    queue.put("done")
    space.value = 5
    return len(numbers)


@pytest.mark.parametrize("method", METHODS)
def test_a_pipes_end_goes_to_a_worker_that_already_runs(method):
    with Pool(1, start_method=method) as pool:
        pool.apply(os.getpid)
        ours, end = Pipe()
        task = pool.submit(send_back, end)
        ours.send({"array": numpy.arange(3)})
        pid, got = ours.recv()
        assert pid == task.get() != os.getpid() and got["array"].tolist() == [0, 1, 2]
        end.close()
        with pytest.raises(EOFError):  # nobody keeps a copy of the other end
            ours.recv()
        ours.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_pipes_end_is_an_argument_of_multiprocessings_process(method):
    context = multiprocessing.get_context(method)
    ours, end = Pipe()
    process = context.Process(target=send_back, args=(end,))
    process.start()
    ours.send([1, 2])
    assert ours.recv() == (process.pid, [1, 2])
    process.join()
    process.close()
    ours.close()
    end.close()


def make_pipe():
    ours, end = Pipe()
    ours.send("from a worker")
    ours.close()
    return end


def test_a_connection_is_a_result_and_goes_through_another():
    with Pool(1) as pool:
        end = pool.apply(make_pipe)
    first, second = Pipe()
    first.send(end)
    end.close()
    end = second.recv()
    assert end.recv() == "from a worker"
    for one in (first, second, end):
        one.close()


def test_a_one_way_pipe_goes_one_way():
    reader, writer = Pipe(duplex=False)
    writer.send(1)
    assert reader.recv() == 1
    with pytest.raises(OSError):
        reader.send(1)
    with pytest.raises(OSError):
        writer.recv()
    reader.close()
    writer.close()


def test_what_cannot_be_sent_is_named_before_a_byte_is_sent():
    first, second = Pipe()
    with pytest.raises(CannotTravel, match=r"object\['a'\]"):
        first.send({"a": threading.Lock()})
    first.send(lambda x: x + 1)
    assert second.recv()(1) == 2
    assert not second.poll()
    first.close()
    second.close()


@pytest.mark.parametrize("ends", [(Listener, theirs.Client), (theirs.Listener, Client), (Listener, Client)])
def test_listener_and_client_talk_to_multiprocessings(ends):
    make_listener, connect = ends
    with make_listener(("127.0.0.1", 0), authkey=b"key") as listener:
        found = []
        thread = threading.Thread(target=lambda: found.append(listener.accept()))
        thread.start()
        client = connect(listener.address, authkey=b"key")
        thread.join()
        server = found[0]
        for sender, reader in ((client, server), (server, client)):
            sender.send({"a": [1, numpy.ones(5000)], "point": Point(2)})
            got = reader.recv()
            assert got["a"][1].sum() == 5000 and got["point"].x == 2
        client.close()
        server.close()


def test_a_wrong_key_is_refused_on_both_sides():
    with Listener(("127.0.0.1", 0), authkey=b"key") as listener:
        refused = []

        def accept():
            try:
                listener.accept()
            except AuthenticationError as error:
                refused.append(error)

        thread = threading.Thread(target=accept)
        thread.start()
        with pytest.raises(AuthenticationError):
            Client(listener.address, authkey=b"other")
        thread.join()
        assert refused


SERVER = """
import sys
from multitask import Listener
class Answer:
    def __init__(self, text): self.text = text
with Listener(("127.0.0.1", 0), authkey=b"shared key") as listener:
    print(listener.address[1], flush=True)
    with listener.accept() as connection:
        call = connection.recv()
        connection.send({"result": call(20), "array": connection.recv().sum(), "own": Answer("made there")})
"""


CLIENT = """
import sys, numpy
from multitask import Client
with Client(("127.0.0.1", int(sys.argv[1])), authkey=b"shared key") as client:
    client.send(lambda x: x * 2 + 2)
    client.send(numpy.arange(1000))
    answer = client.recv()
assert (answer["result"], answer["array"], answer["own"].text) == (42, 499500, "made there")
"""


def test_two_interpreters_started_apart_send_each_other_what_they_have_never_seen():
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        subprocess.run([sys.executable, "-c", CLIENT, server.stdout.readline()], check=True, timeout=60)
        assert server.wait(20) == 0


# --- managers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manager():
    with Manager() as made:
        yield made


@pytest.mark.parametrize("kind", ["pool", *METHODS])
def test_a_managers_things_are_used_by_every_kind_of_process(manager, kind):
    things = (manager.list(), manager.dict(), manager.Queue(), manager.Namespace(), manager.Lock())
    if kind == "pool":
        with Pool(1) as pool:
            assert pool.apply(fill, (things,)) == 1
    else:
        process = multiprocessing.get_context(kind).Process(target=fill, args=(things,))
        process.start()
        process.join()
        process.close()
    numbers, names, queue, space, _ = things
    assert list(numbers) == [names["here"]] and numbers[0] != os.getpid()
    assert (queue.get(), space.value) == ("done", 5)


def test_a_manager_keeps_things_inside_of_things_and_lambdas(manager):
    outer = manager.list([manager.dict(a=1)])
    outer[0]["a"] += 1
    assert outer[0]["a"] == 2
    outer.append(lambda x: x + 1)
    assert outer[1](1) == 2


def test_every_type_of_a_sync_manager_works(manager):
    assert manager.Value("i", 3).value == 3
    assert list(manager.Array("i", [1, 2])) == [1, 2]
    for lock in (manager.Lock(), manager.RLock(), manager.Semaphore(2), manager.BoundedSemaphore(2)):
        assert lock.acquire()
        lock.release()
    event, condition = manager.Event(), manager.Condition()
    event.set()
    assert event.is_set()
    with condition:
        condition.notify_all()
    assert manager.Barrier(1).wait() == 0
    queue = manager.JoinableQueue()
    queue.put(1)
    assert queue.get() == 1
    queue.task_done()
    queue.join()
    pool = manager.Pool(1)
    assert pool.map(abs, [-1]) == [1]
    pool.terminate()


class PointManager(BaseManager):
    pass


PointManager.register("Point", Point)


def test_a_registered_class_lives_in_the_manager():
    with PointManager() as made:
        point = made.Point(4)
        assert point.get() == 4
        with pytest.raises(AttributeError):
            point.nothing


REMOTE = """
import queue, sys
from multitask import BaseManager
line = queue.Queue()
class Server(BaseManager): pass
Server.register("line", callable=lambda: line)
server = Server(("127.0.0.1", 0), authkey=b"remote key").get_server()
print(server.address[1], flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize("base", [BaseManager, managers.BaseManager], ids=["ours", "theirs"])
def test_a_manager_of_another_interpreter_is_reached_by_its_address(tmp_path, base):
    script = tmp_path / "server.py"
    script.write_text(REMOTE)
    kind = type("Remote", (base,), {})
    kind.register("line")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as server:
        remote = kind(("127.0.0.1", int(server.stdout.readline())), authkey=b"remote key")
        remote.connect()
        remote.line().put({"a": [1, 2]})
        assert remote.line().get() == {"a": [1, 2]}
        server.kill()


NO_GUARD = """
import multitask
class Local:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return type(other) is Local and self.x == other.x
class Counting(multitask.BaseManager): pass
class Counter:
    def __init__(self): self.n = 0
    def add(self): self.n += 1; return self.n
Counting.register("Counter", Counter)
manager = multitask.Manager()
things = manager.list([Local(1)])
assert things[0] == Local(1)
with Counting() as counting:
    counter = counting.Counter()
    counter.add()
    with multitask.Pool(2) as pool:
        pool.map(lambda _: counter.add(), range(4))
    assert counter.add() == 6
print("done")
"""


@pytest.mark.parametrize("how", ["script", "command", "stdin"])
def test_managers_need_no_guard(how, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(NO_GUARD)
    command = {"script": [script], "command": ["-c", NO_GUARD], "stdin": ["-"]}[how]
    done = subprocess.run(
        [sys.executable, "-W", "error", *command], input=NO_GUARD, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


ORPHANING = """
import os, signal, multitask
manager = multitask.Manager()
things = manager.dict(a=1)
print(manager._process.pid, os.fsdecode(manager.address)[1:], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_manager_ends_with_a_killed_parent_and_leaves_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ORPHANING],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == -signal.SIGKILL
    pid, name = done.stdout.split()
    try:
        handle = os.pidfd_open(int(pid))
    except ProcessLookupError:
        pass
    else:
        import select

        assert select.select([handle], [], [], 2.0)[0], "the manager outlived its parent by 2 s"
        os.close(handle)
    assert list(tmp_path.iterdir()) == []
    assert name.startswith("multitask-") and f"@{name}" not in Path("/proc/net/unix").read_text()
