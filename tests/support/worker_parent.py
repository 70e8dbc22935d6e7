"""A program that starts two workers and ends in the way its arguments say: METHOD WAY THREAD."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from multitask._engine.workers.process import start_worker  # noqa: E402

method, way, where = sys.argv[1:]
workers = []


def begin():
    for spec in ({"brood": ["child"], "busy": False}, {"brood": [], "busy": True}):
        read, write = os.pipe()
        workers.append(start_worker(method, {"target": "worker_targets:stay", **spec}, [write]))
        os.close(write)
        with os.fdopen(read) as answer:
            print(answer.readline().strip(), flush=True)
    if way == "stopped":
        os.kill(workers[0].pid, signal.SIGSTOP)


if where == "thread":
    starter = threading.Thread(target=begin)
    starter.start()
    starter.join()
else:
    begin()
sys.stdin.readline()
if way == "exception":
    raise KeyError("the parent fails")
if way == "_exit":
    os._exit(0)
if way == "exec":
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(5)"])
if way in ("SIGTERM", "SIGKILL", "SIGINT"):
    os.kill(os.getpid(), getattr(signal, way))
if way == "stopped":
    os.kill(os.getpid(), signal.SIGKILL)
