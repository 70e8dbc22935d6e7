"""Which flavour of queue ``Queue(...)`` makes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from multitask import _native

if TYPE_CHECKING:
    from multitask._engine.queueing.interface import Queue


def flavour(shared: bool) -> type[Queue]:
    """The class to make: between threads, in shared memory, or on a file where the native one is not to be had."""
    if not shared:
        from multitask._engine.queueing.local import LocalQueue

        return LocalQueue
    if native():
        from multitask._engine.queueing.memory import NativeQueue

        return NativeQueue
    if os.name == "nt":
        from multitask.errors import NotSupported

        raise NotSupported(
            "a queue between processes has not been written for Windows yet",
            fix="use Manager().Queue(), or Queue(shared=False) between threads",
        )
    from multitask._engine.queueing.files import FileQueue

    return FileQueue


def native() -> bool:
    """Whether the native queue is built and wanted (``MULTITASK_NATIVE=0`` says no)."""
    if not _native.available:
        return False
    try:
        from multitask._native import ring  # noqa: F401
    except ImportError:
        return False
    return True
