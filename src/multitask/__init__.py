"""multiprocessing, threading and concurrent.futures without the hangs: change the import.

Every public name is here and is loaded on first use, so that ``import multitask`` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # true for type checkers, which know the name

__version__ = "0.1.0"

__all__ = [
    "FIFO",
    "BaseManager",
    "CancelledError",
    "CannotTravel",
    "Client",
    "Empty",
    "Executor",
    "Full",
    "JoinableQueue",
    "Listener",
    "Manager",
    "MultitaskError",
    "NotSupported",
    "Pipe",
    "Pool",
    "PoolBroken",
    "PoolClosed",
    "Priority",
    "Queue",
    "ShutDown",
    "SimpleQueue",
    "Task",
    "TaskTimeout",
    "TimeoutError",
    "WorkerLost",
    "copytree",
    "cpu_count",
    "note",
]

if TYPE_CHECKING:
    from multitask._engine.cpus import cpu_count
    from multitask._engine.notes import note
    from multitask.connections import BaseManager, Client, Listener, Manager, Pipe
    from multitask.copying import copytree
    from multitask.errors import (
        CancelledError,
        CannotTravel,
        MultitaskError,
        NotSupported,
        PoolBroken,
        PoolClosed,
        TaskTimeout,
        TimeoutError,
        WorkerLost,
    )
    from multitask.executor import Executor
    from multitask.policies import FIFO, Priority
    from multitask.pool import Pool
    from multitask.queues import Empty, Full, JoinableQueue, Queue, ShutDown, SimpleQueue
    from multitask.task import Task
else:
    _HOME = {
        "BaseManager": "connections",
        "CancelledError": "errors",
        "CannotTravel": "errors",
        "Client": "connections",
        "copytree": "copying",
        "cpu_count": "_engine.cpus",
        "Empty": "queues",
        "Executor": "executor",
        "FIFO": "policies",
        "Full": "queues",
        "JoinableQueue": "queues",
        "Listener": "connections",
        "Manager": "connections",
        "MultitaskError": "errors",
        "note": "_engine.notes",
        "NotSupported": "errors",
        "Pipe": "connections",
        "Pool": "pool",
        "PoolBroken": "errors",
        "PoolClosed": "errors",
        "Priority": "policies",
        "Queue": "queues",
        "ShutDown": "queues",
        "SimpleQueue": "queues",
        "Task": "task",
        "TaskTimeout": "errors",
        "TimeoutError": "errors",
        "WorkerLost": "errors",
    }

    def __getattr__(name):
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return value

    def __dir__():
        return sorted(globals() | _HOME)
