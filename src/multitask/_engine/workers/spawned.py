"""A spawned worker: a fresh interpreter on its way to the worker's main function.

Few imports: each of them is paid at the start of every spawned worker.
"""

from __future__ import annotations

import gc
import os
import sys

from multitask._engine.workers import entry, forking
from multitask._typing import Any


def main(order: dict[str, Any]) -> None:
    """The spawned worker: first steps, then the worker's own main function. Never returns."""
    sys.argv[:] = order["argv"]
    for fd in order["fds"]:
        os.set_inheritable(fd, False)
    if order["sentinel"] is not None:
        keep_sentinel(order["sentinel"])
    entry.isolate(order["lifeline"])
    entry.mark(order["marker"])
    gc.enable()
    entry.run(order["spec"], order["fds"], None)


def keep_sentinel(fd: int) -> None:
    """Hold the write end by which the parent sees this process end; no child of this one may have it."""
    os.set_inheritable(fd, False)
    with forking.gate:
        forking.own(fd)
