"""The garbage collector runs finalizers in the middle of anything, under any lock: each program forces a bad moment.

What it collects is garbage in a cycle that was made before; the moment is a function that is called with the lock held.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from scripts import FORKS_SAID

START = "import faulthandler, gc, os, threading\nfaulthandler.dump_traceback_later(20, exit=True)\ngc.disable()\n"

PROGRAMS = {
    "a queue, in a thread with a lock that another thread waits for in a fork": """
import logging, pickle
from multitask import Queue
from multitask._engine.workers import forking

queue = Queue()
assert pickle.loads(pickle.dumps(queue)) is queue  # it was lent
ring = [queue]
ring.append(ring)
del queue, ring
held = threading.Event()
real = logging.Manager._fixupParents

def under_the_lock(self, logger):
    held.set()
    while forking.gate.acquire(blocking=False):
        forking.gate.release()
        os.sched_yield()
    gc.collect()  # the main thread has the gate, and waits for the lock that this one has
    return real(self, logger)

logging.Manager._fixupParents = under_the_lock
thread = threading.Thread(target=logging.getLogger, args=("some.name",))
thread.start()
held.wait()
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
thread.join()
forking.close_unwanted()
assert not forking._unwanted
print("ok")
""",
    "what submits, while an executor clears out": """
from multitask import Executor, executor

pool = Executor(1, kind="inline")

class Late:
    def __del__(self):
        submitted.append(pool.submit(int).result())

submitted = []
late = Late()
late.itself = late
del late
real = executor._is_open

def is_open(task):
    executor._is_open = real
    gc.collect()
    return real(task)

for _ in range(1000):
    pool.submit(int)
executor._is_open = is_open
pool.submit(int)
assert submitted == [0]
pool.shutdown()
print("ok")
""",
    "an iterator of map, in a thread that waits for another task": """
import time
from multitask import Executor
from multitask._engine import patience

pool = Executor(2, kind="thread")
begin, end, go = threading.Event(), threading.Event(), threading.Event()

def other():
    begin.set()
    go.wait()

waited_for = pool.submit(other)
begin.wait()
results = pool.map(lambda event: event and event.wait(), [None, end, end, end])
next(results)  # one runs, and two wait
ring = [results]
ring.append(ring)
del results, ring
real = patience.piece

def piece(seconds):
    patience.piece = real  # called with the task's condition held
    go.set()
    core = pool._core
    while core._lock.acquire(blocking=False):  # until the worker has it, and waits for the condition
        core._lock.release()
        os.sched_yield()
    gc.collect()
    return real(seconds)

patience.piece = piece
waited_for.result()
end.set()
pool.shutdown()
print("ok")
""",
    "what ends an executor whose failures are being looked at": """
from multitask import Executor

pool = Executor(1, kind="thread")
failures = pool._core.failures
ended = threading.Event()

class Last:
    def __del__(self):
        pool.shutdown()
        ended.set()

def fail():
    raise ValueError("nobody asked for this")

task = pool.submit(fail)
while not failures:
    os.sched_yield()
del task
last = Last()
last.itself = last
del last
real = failures._replace

def replace(count, tasks):
    failures._replace = real
    gc.collect()
    return real(count, tasks)

failures._replace = replace
import io, sys
said, sys.stderr = sys.stderr, io.StringIO()
failures.trim()
ended.wait()
thread = pool._engine.callbacks._thread
if thread is not None:
    thread.join()
said, sys.stderr = sys.stderr, said
assert said.getvalue().count("ValueError: nobody asked for this") == 1, said.getvalue()  # 3.13 shows -c too
assert not failures  # the inner look took it, or the outer one put it back
print("ok")
""",
    "a generator that closes its stream, while its pool notes another": """
import itertools, weakref
from multitask import Pool

pool = Pool(1, kind="thread")

def numbers():
    with pool.imap(int, itertools.count()) as stream:
        yield from stream

class Collecting(weakref.WeakSet):
    def add(self, flow):
        gc.collect()
        super().add(flow)

forgotten = numbers()
next(forgotten)
ring = [forgotten]
ring.append(ring)
del forgotten, ring
pool._flows._known = Collecting()
assert list(pool.imap(int, [1])) == [1]
pool.terminate()
pool.join()
print("ok")
""",
    "what hands a queue out, while its thread does": """
import pickle, sys
from multitask import Queue
from multitask._engine.family import entries

one, other = Queue(), Queue()
complaints = []
sys.unraisablehook = lambda what: complaints.append(str(what.exc_value))

class Late:
    def __del__(self):
        pickle.dumps(other)

late = Late()
late.itself = late
del late
real = entries._own_description
entries._own_description = lambda fd: (gc.collect(), real(fd))[1]
sent = pickle.dumps(one)
entries._own_description = real
assert len(complaints) == 1 and "finalizer" in complaints[0], complaints
assert pickle.loads(sent) is one and pickle.loads(pickle.dumps(other)) is other
print("ok")
""",
    "what asks for a result, while that is decoded": """
os.environ["MULTITASK_NATIVE"] = "0"
from multitask import Pool

class Thing:
    def __getstate__(self):
        return {"a": 1}

    def __setstate__(self, state):
        if armed:
            armed.clear()
            gc.collect()

class Late:
    def __del__(self):
        seen.append(task.result())

armed, seen = [], []
with Pool(1, start_method="fork") as pool:
    task = pool.submit(Thing)
    task.wait()
    late = Late()
    late.itself = late
    del late
    armed.append(True)
    assert task.result() is seen[0] is task.result()
print("ok")
""",
    "a coroutine that waits for a queue, while the thread that wakes them goes through them": """
import asyncio
from multitask import Queue
from multitask._engine.queueing import awaiting

queue = Queue(shared=False)

async def forgotten():
    coroutine = queue.aget()
    coroutine.send(None)
    ring = [coroutine]
    ring.append(ring)

first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
first.run_until_complete(forgotten())
real = awaiting.AsyncioHome.gone
collected = threading.Event()

def gone(self):
    if not collected.is_set() and len(awaiting._watches[id(queue), True].lines) > 1:
        gc.collect()
        collected.set()
        queue.put("for the other one")
    return real(self)

awaiting.AsyncioHome.gone = gone

async def reader():
    return await queue.aget()

assert second.run_until_complete(reader()) == "for the other one"
assert collected.is_set()
print("ok")
""",
    "a coroutine that waits for a queue elsewhere, while the connection is made anew": """
import asyncio, socket
from multitask import Queue
from multitask._engine.queueing.remote import client, line

class Collecting(line.Ask):
    __slots__ = ()

    @property
    def repeatable(self):
        if armed:
            armed.clear()
            gc.collect()
        return True

    @repeatable.setter
    def repeatable(self, value):
        pass

armed, got = [], []
client.Ask = Collecting
queue = Queue(shared=False)
server = queue.serve(("127.0.0.1", 0), authkey=b"key")
remote = Queue.connect(server.address, authkey=b"key")
thread = threading.Thread(target=lambda: got.append(remote.get()))
thread.start()
while not remote._line._open:
    os.sched_yield()

async def forgotten():
    coroutine = remote.aget()
    coroutine.send(None)
    ring = [coroutine]
    ring.append(ring)

asyncio.new_event_loop().run_until_complete(forgotten())
real = line.Line._resume
line.Line._resume = lambda self, sock, known: real(self, sock, False)  # a server that knows none of its questions
armed.append(True)
remote._line._sock.shutdown(socket.SHUT_RDWR)
queue.put("to whoever is left")
thread.join()
assert got == ["to whoever is left"]
print("ok")
os._exit(0)
""",
}


@pytest.mark.parametrize("of", PROGRAMS)
def test_a_finalizer(of: str) -> None:
    program = START + PROGRAMS[of]
    done = subprocess.run(
        [sys.executable, *FORKS_SAID, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def test_a_fork_in_a_worker_that_has_lent_something_says_nothing(tmp_path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os\n"
        "from multitask import Pool, Queue\n"
        "def talk(queue):\n"
        "    queue.put(1)\n"
        "def fork():\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os._exit(0)\n"
        "    return os.waitpid(pid, 0)[1]\n"
        "if __name__ == '__main__':\n"
        "    with Pool(1) as pool:\n"
        "        queue = Queue()\n"
        "        pool.apply(talk, (queue,))\n"
        "        print(queue.get(), pool.apply(fork), pool.apply(fork))\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 0 0\n", "")
