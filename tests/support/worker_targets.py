"""What the workers of the tests do; imported by them, so it imports little."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time


def report(spec, fds, inherited):
    """Write what the worker sees of itself to its first descriptor and end with 7."""
    seen = {
        "pid": os.getpid(),
        "group": os.getpgrp(),
        "cwd": os.getcwd(),
        "argv": sys.argv,
        "path": sys.path,
        "environ": dict(os.environ),
        "stdin": sys.stdin.read(),
        "sigint": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "sigttou": signal.getsignal(signal.SIGTTOU) == signal.SIG_IGN,
        "sigusr1": signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL,
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "inheritable": [os.get_inheritable(fd) for fd in fds],
        "inherited": inherited,
        "warnoptions": sys.warnoptions,
        "main": getattr(sys.modules.get("__main__"), "__file__", None),
        "numpy": "numpy" in sys.modules,
        "fds": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in list_fds()),
    }
    os.write(fds[0], repr(seen).encode())
    return 7


def list_fds():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            os.readlink(f"/proc/self/fd/{name}")
            found.append(int(name))
        except OSError:
            pass
    return found


def echo(spec, fds, inherited):
    """Send back what arrives on each descriptor, in their order."""
    for fd in fds[:-1]:
        os.write(fds[-1], os.read(fd, 100))


def talk(spec, fds, inherited):
    print(spec["text"])


def leave(spec, fds, inherited):
    """End in the way that spec["how"] names."""
    how = spec["how"]
    if how == "return":
        return 0
    if how == "exit":
        sys.exit(3)
    if how == "text":
        sys.exit("that is all")
    if how == "_exit":
        os._exit(4)
    if how == "segfault":
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)
    raise RuntimeError("this worker fails")


def stay(spec, fds, inherited):
    """Tell the pids of this worker and of what it starts, then never end."""
    pids = [os.getpid(), *(start(kind) for kind in spec.get("brood", ()))]
    os.write(fds[0], " ".join(map(str, pids)).encode() + b"\n")
    os.close(fds[0])
    if spec.get("busy"):
        sum(range(10**15))  # one call in C that keeps the GIL
    if spec.get("end"):
        os._exit(5)
    while True:
        time.sleep(100)


def start(kind):
    """Start a process that lives long: in the group, in a session of its own, or a daemon (its parent has ended)."""
    command = [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]
    if kind == "child":
        return popen(command, stdin=subprocess.DEVNULL)
    if kind == "session":
        return popen(command, start_new_session=True)
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        pid = popen(command) if kind == "daemon" else os.fork()
        if pid == 0:
            os.close(read)
            os.close(write)
            time.sleep(1000)
        os.write(write, str(pid).encode())
        os._exit(0)
    os.close(write)
    pid = int(os.read(read, 20))
    os.close(read)
    os.wait()
    return pid


KEPT = []


def popen(command, **options):
    KEPT.append(subprocess.Popen(command, **options))  # dropped while it runs, it would warn
    return KEPT[-1].pid
