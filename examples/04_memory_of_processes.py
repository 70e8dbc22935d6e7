"""Chapter 4: what a process changes is its own; what must come back is sent, through a result or a queue."""

import os

from multitask import Pool, Queue

number = 100
words = ["one"]


def change():
    global number
    number += 1
    words.append("two")
    return os.getpid(), number, list(words)


# A child that was forked has a copy of everything: its change is its own.
q = Queue()
pid = os.fork()
if pid == 0:
    q.put(change())
    os._exit(0)
os.waitpid(pid, 0)
child, its_number, its_words = q.get()
print("in the child: ", its_number, its_words)
print("in the parent:", number, words)
assert child == pid and (its_number, its_words) == (101, ["one", "two"])
assert (number, words) == (100, ["one"])

# So it is in a pool, under every start method; what the function returns is what comes back.
for method in ("fork", "forkserver", "spawn"):
    with Pool(1, start_method=method) as pool:
        worker, its_number, its_words = pool.apply(change)
        print(f"in a worker ({method}):", its_number, its_words)
        assert worker != os.getpid() and (its_number, its_words) == (101, ["one", "two"])
assert (number, words) == (100, ["one"])

# A queue carries what comes about meanwhile.
with Pool(1) as pool:
    pool.submit(lambda: q.put_many(word.upper() for word in words)).result()
print("through a queue:", q.get_many())
