"""Chapter 9: a queue between processes, and the four things that go wrong elsewhere."""

import os
import signal
import time
from multiprocessing import get_context

from multitask import Queue

Process = get_context("fork").Process


def write(q):
    for value in "ABC":
        print("put", value, flush=True)
        q.put(value)


def read(q):
    for value in q:  # until the queue is shut down
        print("got", value, flush=True)


q = Queue(3)
writer, reader = Process(target=write, args=(q,)), Process(target=read, args=(q,))
writer.start()
reader.start()
writer.join()
q.shutdown()
reader.join()
assert q.empty() and reader.exitcode == 0

# Full and Empty, in time.
q = Queue(1)
q.put("the only one")
begun = time.monotonic()
try:
    q.put("one too many", timeout=0.5)
except Queue.Full:
    print(f"full: {q}, after {time.monotonic() - begun:.1f} s")
else:
    raise AssertionError("there was no room")
assert q.full() and q.qsize() == 1 and q.get_nowait() == "the only one" and q.empty()

# Join the producer first, then get: no thread has to be waited for.
q = Queue()
producer = Process(target=q.put, args=(b"x" * 10_000_000,))
producer.start()
producer.join()
print("ten megabytes outlived their producer:", len(q.get()))


# A process is killed in the midst of it: what it put is there, and the queue goes on.
def put_for_ever(q):
    number = 0
    while True:
        q.put(number)
        number += 1


victim = Process(target=put_for_ever, args=(q,))
victim.start()
q.wait_readable()
os.kill(victim.pid, signal.SIGKILL)
victim.join()
numbers = q.get_many() if q.qsize() else []
while q.qsize():
    numbers += q.get_many()
assert numbers == list(range(len(numbers))) and numbers
q.put("still at work")
assert q.get() == "still at work"
print("killed in the midst of it: all that it had put was there, in order")
