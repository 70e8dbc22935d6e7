"""A program that makes one pool, asks it for one result and ends: what a user's short script does.

Prints the milliseconds from before the pool was made until the result was there.
"""

from __future__ import annotations

import importlib
import sys
from time import perf_counter
from typing import Any


def make(name: str, method: str) -> tuple[Any, Any]:
    """Import the library; give back what makes the pool and what asks for f(1)."""
    import work

    if name == "multitask":
        from multitask import Pool  # names are loaded on first use; the others' imports load theirs at once

        return lambda: Pool(2, start_method=method), lambda pool: pool.apply(work.f, (1,))
    import multiprocessing

    context = multiprocessing.get_context(method)
    if name == "mp":
        import multiprocessing.pool

        return lambda: context.Pool(2), lambda pool: pool.apply(work.f, (1,))
    if name == "ppe":
        from concurrent.futures import ProcessPoolExecutor

        return lambda: ProcessPoolExecutor(2, mp_context=context), lambda pool: pool.submit(work.f, 1).result()
    if name == "pebble":
        pebble = importlib.import_module("pebble")
        return lambda: pebble.ProcessPool(2, context=context), lambda pool: pool.schedule(work.f, args=(1,)).result()
    mpire = importlib.import_module("mpire")
    return lambda: mpire.WorkerPool(2, start_method=method), lambda pool: pool.apply(work.f, (1,))


def main(name: str, method: str) -> None:
    """Time the first result, then leave the pool as its own ``with`` leaves it."""
    pool_of, ask = make(name, method)
    begin = perf_counter()
    with pool_of() as pool:
        assert ask(pool) == 2
        seconds = perf_counter() - begin
    print(seconds * 1e3)


if __name__ == "__main__":
    main(*sys.argv[1:])
