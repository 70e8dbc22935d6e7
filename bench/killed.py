"""What becomes of 100 calls when the worker of one of them is killed: stdlib, best peer, here.

    python bench/killed.py mp | pebble | multitask

Prints how many results there were and what the killed call got. A pool that gives no answer within 10 s is cut
and said to hang.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

SECONDS = 10


def work(number: int) -> int:
    """*number*, except that call 50 loses its worker."""
    if number == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def pool_of(name: str) -> tuple[Any, Callable[[Any, int], Callable[[], object]]]:
    """A pool of two workers, and what submits call *i* to it and gives back how to ask for its result."""
    if name == "mp":
        import multiprocessing

        return multiprocessing.Pool(2), lambda pool, i: pool.apply_async(work, (i,)).get
    if name == "pebble":
        return importlib.import_module("pebble").ProcessPool(2), lambda pool, i: pool.schedule(work, args=(i,)).result
    from multitask import Pool

    return Pool(2), lambda pool, i: pool.submit(work, i).result


def main(name: str) -> None:
    """Run the 100 calls on the pool called *name*."""
    pool, submit = pool_of(name)
    asks = [submit(pool, i) for i in range(100)]
    signal.signal(signal.SIGALRM, lambda *_: (print(f"{name}: {outcome(got)}, then hangs"), os._exit(1)))
    signal.alarm(SECONDS)
    got: Counter[str] = Counter()
    for ask in asks:
        try:
            ask()
            got["results"] += 1
        except Exception as error:
            got[type(error).__name__] += 1
    signal.alarm(0)
    print(f"{name}: {outcome(got)}")
    pool.terminate() if hasattr(pool, "terminate") else pool.stop()


def outcome(got: Counter[str]) -> str:
    """The counts in words."""
    return ", ".join(f"{count} {what}" for what, count in got.items())


if __name__ == "__main__":
    main(sys.argv[1])
