"""Chapter 5: processes whose results, errors and ends are not lost. No guard is needed."""

import time

from multitask import Process, TimeoutError, WorkerLost, current_process, parent_process


def work(number):
    return current_process().name, parent_process().name, number * number


processes = [Process(target=work, args=(number,), name=f"worker {number}") for number in range(3)]
for process in processes:
    process.start()
results = [process.result() for process in processes]
print(results)
assert results == [(f"worker {number}", "MainProcess", number * number) for number in range(3)]
assert [process.exitcode for process in processes] == [0, 0, 0]

# A wait that ran out harms nothing.
sleeper = Process(target=time.sleep, args=(3600,), name="sleeper")
sleeper.start()
try:
    sleeper.result(timeout=0.05)
except TimeoutError as error:
    print(error)
assert sleeper.is_alive()

# One that is killed says so.
sleeper.kill()
error = sleeper.exception()
print(error)
assert isinstance(error, WorkerLost)
assert sleeper.exitcode == -9
