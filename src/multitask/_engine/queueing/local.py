"""``Queue(shared=False)``: the queue between the threads of one process, through which the very same objects go.

The work is done by ``_native.local`` or, without it, by ``plain``; both keep the same contract.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

from multitask._engine.queueing.interface import Queue
from multitask._engine.queueing.plain import PlainQueue
from multitask.errors import CannotTravel


class Staying:
    """What both have in common: they stay in their process."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise CannotTravel(
            "a queue between threads (shared=False) cannot be sent to another process or put on a shared queue",
            why="the objects in it are those of this process, and nothing of them is ever pickled",
            fix="use Queue(maxsize), which is shared by default; a thread gets this one as it is",
        )

    def __copy__(self) -> NoReturn:
        raise TypeError("a queue cannot be copied; hand the queue itself on")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise TypeError("a queue cannot be copied; hand the queue itself on")


class PlainLocalQueue(Staying, PlainQueue, Queue):
    """The queue between threads in Python alone."""

    __slots__ = ()


LocalQueue: type[Queue] = PlainLocalQueue

if os.environ.get("MULTITASK_NATIVE", "1") != "0":
    try:
        from multitask._native.local import ThreadQueue
    except ImportError:  # not built: the one in Python does the same
        pass
    else:

        class NativeLocalQueue(Staying, ThreadQueue, Queue):
            """The queue between threads in C."""

            __slots__ = ()

        LocalQueue = NativeLocalQueue
