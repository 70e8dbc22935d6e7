"""Every pool that is measured, behind one small interface.

A method that a pool does not have stays None here, and its cell in the table stays empty. A contender
is imported when it is made, so that a process that measures one does not carry the others.
"""

from __future__ import annotations

import collections
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

BASELINE = "mp"
OURS = "multitask"
STDLIB = ("mp", "ppe", "threadpool", "tpe")
PROCESS_PEERS = ("ppe", "loky", "joblib", "mpire", "pebble", "billiard", "deadpool")
THREAD_PEERS = ("threadpool", "tpe")


class Contender:
    """One started pool. ``submit`` returns a handle; ``result`` waits for one."""

    title: ClassVar[str]
    package: ClassVar[str]
    submit: Callable[..., Any] | None = None
    result: Callable[[Any], Any] | None = None
    call: Callable[..., Any] | None = None
    map: Callable[[Any, Sequence[Any]], list[Any]] | None = None
    map_one: Callable[[Any, Sequence[Any]], list[Any]] | None = None
    imap: Callable[[Any, Sequence[Any]], Iterable[Any]] | None = None
    imap_unordered: Callable[[Any, Sequence[Any]], Iterable[Any]] | None = None
    slow_map: ClassVar[bool] = False  # a map that costs about as much per item as a call: fewer items are timed
    slow_call: ClassVar[bool] = False  # a call takes milliseconds: fewer calls are timed

    def __init__(self, workers: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def consume(results: Iterable[Any]) -> None:
    """Take everything out of an iterator as fast as it goes."""
    collections.deque(results, maxlen=0)


class PoolNames(Contender):
    """Pools with the names of multiprocessing.Pool."""

    def adopt(self, pool: Any) -> None:
        self.pool = pool
        self.submit = lambda fn, x: pool.apply_async(fn, (x,))
        self.result = lambda handle: handle.get()
        self.call = lambda fn, x: pool.apply(fn, (x,))
        self.map = lambda fn, items: pool.map(fn, items)
        self.map_one = lambda fn, items: pool.map(fn, items, 1)
        self.imap = lambda fn, items: pool.imap(fn, items)
        self.imap_unordered = lambda fn, items: pool.imap_unordered(fn, items)

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Multitask(PoolNames):
    title = "**multitask.Pool**"
    package = "multitask"

    def __init__(self, workers: int, **options: Any) -> None:
        pool = importlib.import_module("multitask").Pool(workers, **options)
        self.adopt(pool)
        self.submit = pool.submit
        self.result = lambda task: task.result()


class MultitaskPipes(Multitask):
    title = "multitask.Pool without its extension"

    def __init__(self, workers: int, **options: Any) -> None:
        os.environ["MULTITASK_NATIVE"] = "0"
        super().__init__(workers, **options)


class MultitaskThreads(Multitask):
    title = 'multitask.Pool(kind="thread")'

    def __init__(self, workers: int, **options: Any) -> None:
        super().__init__(workers, kind="thread", **options)


class MultiprocessingPool(PoolNames):
    title = "multiprocessing.Pool"
    package = "python"

    def __init__(self, workers: int) -> None:
        self.adopt(importlib.import_module("multiprocessing").Pool(workers))


class StdlibThreadPool(PoolNames):
    title = "multiprocessing.pool.ThreadPool"
    package = "python"

    def __init__(self, workers: int) -> None:
        self.adopt(importlib.import_module("multiprocessing.pool").ThreadPool(workers))


class Billiard(PoolNames):
    title = "billiard.Pool"
    package = "billiard"

    def __init__(self, workers: int) -> None:
        self.adopt(importlib.import_module("billiard").Pool(workers))


class ExecutorNames(Contender):
    """Executors: submit and map, a chunk of one unless told otherwise."""

    slow_map = True

    def adopt(self, executor: Any) -> None:
        self.executor = executor
        self.submit = executor.submit
        self.result = lambda future: future.result()
        self.call = lambda fn, x: executor.submit(fn, x).result()
        self.map = lambda fn, items: list(executor.map(fn, items))
        self.map_one = self.map

    def close(self) -> None:
        self.executor.shutdown(wait=True)


class StdlibProcesses(ExecutorNames):
    title = "concurrent.futures.ProcessPoolExecutor"
    package = "python"

    def __init__(self, workers: int) -> None:
        self.adopt(importlib.import_module("concurrent.futures").ProcessPoolExecutor(workers))


class StdlibThreads(ExecutorNames):
    title = "concurrent.futures.ThreadPoolExecutor"
    package = "python"

    def __init__(self, workers: int) -> None:
        self.adopt(importlib.import_module("concurrent.futures").ThreadPoolExecutor(workers))


class Loky(ExecutorNames):
    title = "loky"
    package = "loky"

    def __init__(self, workers: int) -> None:
        self.adopt(importlib.import_module("loky").ProcessPoolExecutor(workers))


class Deadpool(ExecutorNames):
    title = "deadpool-executor"
    package = "deadpool-executor"

    def __init__(self, workers: int) -> None:
        self.adopt(importlib.import_module("deadpool").Deadpool(max_workers=workers, min_workers=workers))


class Pebble(ExecutorNames):
    title = "pebble"
    package = "pebble"

    def __init__(self, workers: int) -> None:
        pool = importlib.import_module("pebble").ProcessPool(max_workers=workers)
        self.executor = pool
        self.submit = lambda fn, x: pool.schedule(fn, args=(x,))
        self.result = lambda future: future.result()
        self.call = lambda fn, x: pool.schedule(fn, args=(x,)).result()
        self.map = lambda fn, items: list(pool.map(fn, items).result())
        self.map_one = self.map

    def close(self) -> None:
        self.executor.close()
        self.executor.join()


class Mpire(Contender):
    title = "mpire"
    package = "mpire"

    def __init__(self, workers: int) -> None:
        pool = importlib.import_module("mpire").WorkerPool(workers, keep_alive=True)
        self.pool = pool
        self.submit = lambda fn, x: pool.apply_async(fn, (x,))
        self.result = lambda handle: handle.get()
        self.call = lambda fn, x: pool.apply(fn, (x,))
        self.map = lambda fn, items: pool.map(fn, items)
        self.map_one = lambda fn, items: pool.map(fn, items, chunk_size=1)
        self.imap = lambda fn, items: pool.imap(fn, items, chunk_size=1)
        self.imap_unordered = lambda fn, items: pool.imap_unordered(fn, items, chunk_size=1)

    def close(self) -> None:
        self.pool.stop_and_join()


class Joblib(Contender):
    """No handle per call: only the maps can be measured, and a call is a map of one item."""

    title = "joblib"
    package = "joblib"
    slow_call = True

    def __init__(self, workers: int) -> None:
        joblib = importlib.import_module("joblib")

        def run(fn: Any, items: Iterable[Any], **options: Any) -> Any:
            return joblib.Parallel(n_jobs=workers, **options)(joblib.delayed(fn)(x) for x in items)

        self.call = lambda fn, x: run(fn, [x])[0]
        self.map = lambda fn, items: list(run(fn, items))
        self.map_one = lambda fn, items: list(run(fn, items, batch_size=1))
        self.imap = lambda fn, items: run(fn, items, batch_size=1, return_as="generator")
        self.imap_unordered = lambda fn, items: run(fn, items, batch_size=1, return_as="generator_unordered")

    def close(self) -> None:
        importlib.import_module("joblib.externals.loky").get_reusable_executor().shutdown(wait=True)


class Ray(Contender):
    """The argument is put into the object store, the result read from it."""

    title = "ray (put)"
    package = "ray"

    def __init__(self, workers: int) -> None:
        self.ray = ray = importlib.import_module("ray")
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
        remotes: dict[Any, Any] = {}

        def call(fn: Any, x: Any) -> Any:
            if fn not in remotes:
                remotes[fn] = ray.remote(fn)
            return ray.get(remotes[fn].remote(ray.put(x)))

        self.call = call

    def close(self) -> None:
        self.ray.shutdown()


class Dask(Contender):
    """The argument is scattered to a worker, the result gathered from it."""

    title = "dask (scatter)"
    package = "distributed"

    def __init__(self, workers: int) -> None:
        distributed = importlib.import_module("distributed")
        self.client = client = distributed.Client(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
        )
        self.call = lambda fn, x: client.submit(fn, client.scatter(x, hash=False), pure=False).result()

    def close(self) -> None:
        self.client.cluster.close()
        self.client.close()


CONTENDERS: dict[str, type[Contender]] = {
    "multitask": Multitask,
    "multitask-pipes": MultitaskPipes,
    "multitask-threads": MultitaskThreads,
    "mp": MultiprocessingPool,
    "ppe": StdlibProcesses,
    "loky": Loky,
    "joblib": Joblib,
    "mpire": Mpire,
    "pebble": Pebble,
    "billiard": Billiard,
    "deadpool": Deadpool,
    "threadpool": StdlibThreadPool,
    "tpe": StdlibThreads,
    "ray": Ray,
    "dask": Dask,
}


def title_of(name: str) -> str:
    """How a contender is called in the tables."""
    return CONTENDERS[name].title if name in CONTENDERS else name


def installed(name: str) -> bool:
    """Whether the package of this contender can be imported."""
    module = {"deadpool-executor": "deadpool", "python": "multiprocessing"}
    package = CONTENDERS[name].package
    if package == OURS:  # measured from the sources beside this folder
        return True
    return importlib.util.find_spec(module.get(package, package)) is not None
