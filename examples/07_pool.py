"""Chapter 7: a pool of three workers, more tasks than workers, and the three things that go wrong elsewhere."""

import os
import signal

from multitask import Pool, WorkerLost


def work(n):
    return n, os.getpid()


# More tasks than workers: the others wait their turn. No __main__ guard is needed.
pool = Pool(3)
results = [pool.apply_async(work, (n,)) for n in range(10)]
pool.close()
pool.join()
numbers, workers = zip(*(result.get() for result in results), strict=True)
print(f"{len(numbers)} tasks in {len(set(workers))} workers")
assert numbers == tuple(range(10))
assert len(set(workers)) <= 3 and os.getpid() not in workers

# apply_async(f, (i)): a bare int is no tuple of arguments. The call says so at once.
with Pool(1) as pool:
    try:
        pool.apply_async(work, (7))
    except TypeError as error:
        print("refused:", error)
    else:
        raise AssertionError("a bare int was taken for a tuple")


# A worker is killed under one of 100 tasks: 99 results and one WorkerLost, and nothing hangs.
def victim(n):
    if n == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


with Pool(3) as pool:
    tasks = [pool.submit(victim, n) for n in range(100)]
    errors = [task.exception() for task in tasks]
lost = [error for error in errors if error is not None]
print(f"{errors.count(None)} results, and: {lost[0]}")
assert len(lost) == 1 and isinstance(lost[0], WorkerLost) and lost[0].exitcode == -signal.SIGKILL

# Leaving `with` waits for what is still to be done.
with Pool(2) as pool:
    tasks = [pool.submit(pow, n, 2) for n in range(1000)]
assert all(task.done() for task in tasks)
print("all", len(tasks), "done when the block was left")
