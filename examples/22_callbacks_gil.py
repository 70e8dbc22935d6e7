"""Chapter 22: callbacks that cannot harm the pool, await, and processes as the way around the GIL."""

import asyncio
import contextlib
import io
import threading

from multitask import Pool

# The parent goes on with its own work and is called when a result is there, in order of completion.
heard = []
with Pool(1) as pool:
    for n in range(5):
        pool.apply_async(pow, (n, 2), callback=heard.append)
print("callbacks got", heard)
assert heard == [0, 1, 4, 9, 16]


# A callback that raises is reported on stderr; the pool does not notice.
def broken(value):
    raise RuntimeError("a mistake in the callback")


reported = io.StringIO()
with contextlib.redirect_stderr(reported):
    with Pool(1) as pool:
        pool.apply_async(abs, (-1,), callback=broken)
        assert pool.apply(abs, (-2,)) == 2
assert "a mistake in the callback" in reported.getvalue()
print("a callback raised, and the pool went on")

# Errors have a callback of their own.
errors = []
with Pool(1) as pool:
    pool.apply_async(int, ("x",), callback=errors.append, error_callback=lambda error: errors.append(type(error)))
print("the error callback got", errors)
assert errors == [ValueError]


# A task can be awaited, and a callback can run in the event loop.
async def main():
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    in_thread = []

    def called(value):
        in_thread.append(threading.current_thread())
        done.set()

    with Pool(2) as pool:
        squares = await asyncio.gather(*(pool.submit(pow, n, 2) for n in range(5)))
        pool.apply_async(abs, (-3,), callback=called, callback_on=loop)
        await done.wait()
    assert in_thread == [threading.main_thread()]
    return squares


squares = asyncio.run(main())
print("awaited", squares)
assert squares == [0, 1, 4, 9, 16]


# The GIL: Python code in threads takes turns, in processes it does not. The code is the same.
def compute(n):
    return sum(k * k for k in range(n))


answers = {}
for kind in ("inline", "thread", "process"):
    with Pool(2, kind=kind) as pool:
        answers[kind] = pool.map(compute, [20_000] * 8)
assert answers["inline"] == answers["thread"] == answers["process"]
print("the same answers from", ", ".join(answers))
