"""Chapter 20: producers and consumers, in threads, with an end of the stream; and in coroutines."""

import asyncio
import threading

from multitask import CannotTravel, Queue

# The queue between threads: three at most, the very same objects, no pickling.
queue = Queue(3, shared=False)
taken, lock = [], threading.Lock()


def produce(name):
    for n in range(5):
        queue.put((name, n))


def consume():
    for item in queue:  # until the queue is shut down and empty
        with lock:
            taken.append(item)
        queue.task_done()


producers = [threading.Thread(target=produce, args=(name,)) for name in "ab"]
consumers = [threading.Thread(target=consume) for _ in range(3)]
for thread in producers + consumers:
    thread.start()
for thread in producers:
    thread.join()
queue.join()  # everything is dealt with
queue.shutdown()  # the end, for every consumer
for thread in consumers:
    thread.join()
print(len(taken), "items went through, and every consumer knew when to stop")
assert sorted(taken) == [(name, n) for name in "ab" for n in range(5)]

# It stays in its process and says what to use instead.
try:
    Queue().put(queue)
except CannotTravel as error:
    print("refused:", error.what)
else:
    raise AssertionError("a queue between threads has travelled")


# Coroutines and threads on one queue.
async def main():
    line = Queue(2, shared=False)

    async def worker():
        got = []
        try:
            while True:
                got.append(await line.aget())
        except line.ShutDown:
            return got

    workers = [asyncio.create_task(worker()) for _ in range(3)]
    for n in range(9):
        await line.aput(n)
    line.shutdown()
    return sorted(number for got in await asyncio.gather(*workers) for number in got)


got = asyncio.run(main())
print("coroutines got", got)
assert got == list(range(9))
