"""multiprocessing, threading and concurrent.futures without the hangs: change the import.

Every public name is here and is loaded on first use, so that ``import multitask`` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # true for type checkers, which know the name

__version__ = "0.1.0"

__all__ = [
    "FIFO",
    "Array",
    "BaseManager",
    "CancelToken",
    "CancelledError",
    "CannotTravel",
    "Client",
    "ConnectionLost",
    "Counter",
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
    "Process",
    "Queue",
    "RawArray",
    "RawValue",
    "Shared",
    "ShutDown",
    "SimpleQueue",
    "Task",
    "TaskTimeout",
    "Thread",
    "TimeoutError",
    "Value",
    "WorkerLost",
    "WrongKey",
    "active_children",
    "copytree",
    "cpu_count",
    "current_process",
    "current_thread",
    "current_token",
    "note",
    "parent_process",
    "share",
]

if TYPE_CHECKING:
    from multitask._engine.cpus import cpu_count
    from multitask._engine.notes import note
    from multitask.connections import BaseManager, Client, Listener, Manager, Pipe
    from multitask.copying import copytree
    from multitask.errors import (
        CancelledError,
        CannotTravel,
        ConnectionLost,
        MultitaskError,
        NotSupported,
        PoolBroken,
        PoolClosed,
        TaskTimeout,
        TimeoutError,
        WorkerLost,
        WrongKey,
    )
    from multitask.executor import Executor
    from multitask.policies import FIFO, Priority
    from multitask.pool import Pool
    from multitask.process import Process, active_children, current_process, parent_process
    from multitask.queues import Empty, Full, JoinableQueue, Queue, ShutDown, SimpleQueue
    from multitask.sharing import Array, Counter, RawArray, RawValue, Shared, Value, share
    from multitask.task import Task
    from multitask.threads import CancelToken, Thread, current_thread, current_token
else:
    _HOME = {
        "Array": "sharing",
        "BaseManager": "connections",
        "CancelToken": "threads",
        "CancelledError": "errors",
        "CannotTravel": "errors",
        "Client": "connections",
        "ConnectionLost": "errors",
        "Counter": "sharing",
        "Empty": "queues",
        "Executor": "executor",
        "FIFO": "policies",
        "Full": "queues",
        "JoinableQueue": "queues",
        "Listener": "connections",
        "Manager": "connections",
        "MultitaskError": "errors",
        "NotSupported": "errors",
        "Pipe": "connections",
        "Pool": "pool",
        "PoolBroken": "errors",
        "PoolClosed": "errors",
        "Priority": "policies",
        "Process": "process",
        "Queue": "queues",
        "RawArray": "sharing",
        "RawValue": "sharing",
        "Shared": "sharing",
        "ShutDown": "queues",
        "SimpleQueue": "queues",
        "Task": "task",
        "TaskTimeout": "errors",
        "Thread": "threads",
        "TimeoutError": "errors",
        "Value": "sharing",
        "WorkerLost": "errors",
        "WrongKey": "errors",
        "active_children": "process",
        "copytree": "copying",
        "cpu_count": "_engine.cpus",
        "current_process": "process",
        "current_thread": "threads",
        "current_token": "threads",
        "note": "_engine.notes",
        "parent_process": "process",
        "share": "sharing",
    }

    def __getattr__(name):
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_hint(name)}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return value

    # What the import is changed for and is not here yet: ours and theirs work side by side.
    _THEIRS = {
        "multiprocessing": (
            "AuthenticationError Barrier BoundedSemaphore BufferTooShort Condition Event Lock ProcessError"
            " RLock Semaphore allow_connection_pickling freeze_support"
            " get_all_start_methods get_context get_logger get_start_method log_to_stderr set_executable"
            " set_forkserver_preload set_start_method"
        ),
        "multiprocessing.pool": "ThreadPool",
        "threading": (
            "Timer active_count enumerate excepthook get_ident get_native_id local main_thread setprofile settrace"
        ),
        "concurrent.futures": (
            "ALL_COMPLETED FIRST_COMPLETED FIRST_EXCEPTION Future ProcessPoolExecutor ThreadPoolExecutor"
            " as_completed wait"
        ),
    }
    _OURS = {
        "Future": "Task",
        "ProcessPoolExecutor": "Executor",
        "ThreadPool": "Pool(kind='thread')",
        "ThreadPoolExecutor": "Executor(kind='thread')",
    }

    def _hint(name):
        if name in _OURS:
            return f"; its place is taken by multitask.{_OURS[name]}"
        for module, names in _THEIRS.items():
            if name in names.split():
                return f"; write `from {module} import {name}`, which works beside multitask"
        return ""

    def __dir__():
        return sorted(globals() | _HOME)
