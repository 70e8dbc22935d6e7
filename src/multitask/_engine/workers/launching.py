"""Starting a fresh interpreter: for a spawned worker and for the fork server.

The new interpreter runs one line of code that knows nothing of multitask. It reads its *order* from a pipe,
takes sys.path from it, and only then imports this package: so it works wherever the package was found, and
the user's ``__main__`` is never imported. An order that is cut short (the parent died or gave up) ends it
without a word.
"""

from __future__ import annotations

import errno
import marshal
import os
import pickle
import select
import sys
from collections.abc import Sequence

from multitask import errors
from multitask._typing import Any

SEND_SECONDS = 20.0  # for the new process to make room in the pipe

# What is imported first is built in: nothing is looked up on the path before the path is set. ``main`` switches the
# garbage collector on again: what is loaded before that is kept anyway.
_BOOT = """\
import sys, marshal, gc
gc.disable()
try:
    with open(int(sys.argv[1]), "rb") as source: order = marshal.load(source)
except EOFError: sys.exit(1)
sys.path[:] = order["path"]
from multitask._engine.workers import {module}
{module}.main(order)
"""


def write_order(spec: dict[str, Any], **more: Any) -> bytes:
    """What a new interpreter has to know: *spec* for the worker, the rest for its first steps."""
    order = {
        "path": [str(entry) for entry in sys.path],
        "argv": [str(word) for word in getattr(sys, "argv", ())],
        "spec": pickle.dumps(spec, pickle.HIGHEST_PROTOCOL),
    }
    return marshal.dumps({**order, **more})


def launch(module: str, order_fd: int, pass_fds: Sequence[int], title: str) -> int:
    """Start an interpreter that calls ``main(order)`` of *module* in this package, with the order read from *order_fd*.

    It leads a process group of its own and has only the descriptors named in *pass_fds* and 0 (nothing), 1, 2.
    Returns its pid; to reap it is the caller's business.
    """
    import subprocess  # not for those who only fork

    command = [_executable(), *_flags(), "-c", _BOOT.format(module=module), str(order_fd), title]
    group: dict[str, Any] = {"process_group": 0} if hasattr(os, "setpgid") else {}
    started = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, pass_fds=(order_fd, *pass_fds), close_fds=True, **group
    )
    started.returncode = 0  # so that it never waits for the process by itself
    return started.pid


def send(fd: int, order: bytes) -> None:
    """Write a whole order to a pipe. A reader that is gone already is no error: its death is seen elsewhere."""
    rest = memoryview(order)
    os.set_blocking(fd, False)
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    try:
        while rest:
            if not poll.poll(SEND_SECONDS * 1000):
                raise OSError(errno.ETIMEDOUT, "the new process does not read its order")
            rest = rest[os.write(fd, rest) :]
    except BrokenPipeError:
        pass


def _executable() -> str:
    chosen = getattr(sys.modules.get("multiprocessing.spawn"), "_python_exe", None)  # multiprocessing.set_executable
    executable = os.fsdecode(chosen) if chosen else sys.executable
    if not executable:
        raise errors.NotSupported(
            "this program cannot start a new Python interpreter",
            why="sys.executable is empty, as in an embedded interpreter",
            fix='call multiprocessing.set_executable(path) or use start_method="fork"',
        )
    return executable


def _flags() -> list[str]:
    """The interpreter's own options as they were given to this one: -X, -W, -O, -B and the like."""
    import subprocess

    return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]
