"""What one thread alone holds while another one forks: CPython drops it in the child before any hook runs."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Any

CHILD_SECONDS = 20.0  # only detects a hang


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def fork_beside(make: Callable[[], Any], use: Callable[[Any], Any], look: Callable[[], int] = int) -> tuple[int, Any]:
    """Fork while a thread holds ``make()``: what the child's ``look()`` gave, and then ``use(it)`` in the thread."""
    local, ready, go, used = threading.local(), threading.Event(), threading.Event(), []

    def hold() -> None:
        local.held = make()
        ready.set()
        go.wait()
        used.append(use(local.held))

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait()
    pid = os.fork()
    if not pid:
        code = 99
        try:
            code = look()
        finally:
            os._exit(code)
    pidfd = os.pidfd_open(pid)
    if not select.select([pidfd], [], [], CHILD_SECONDS)[0]:
        os.kill(pid, signal.SIGKILL)
    os.close(pidfd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    go.set()
    thread.join()
    return code, used[0] if used else None
