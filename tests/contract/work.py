"""What the contract suite has its workers do."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path


def add_one(x):
    return x + 1


def raise_value_error(x=None):
    raise ValueError(f"bad {x}")


def raise_if_odd(x):
    if x % 2:
        raise ValueError(x)
    return x


def keywords(*args, **kwargs):
    return args, kwargs


def raise_this(error):
    raise error


class TwoArguments(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.first, self.second = first, second


def raise_two_arguments():
    raise TwoArguments(1, 2)


def make_lock(_=None):
    return threading.Lock()  # cannot be pickled


class Unloadable:
    """Can be pickled and not be rebuilt."""

    def __reduce__(self):
        return (raise_value_error, ("unloadable",))


def make_unloadable():
    return Unloadable()


class HoldsLock(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


def raise_holds_lock():
    raise HoldsLock


def append_line(path, text):
    with open(path, "a") as file:
        file.write(f"{text}\n")


def lines(path):
    return Path(path).read_text().split() if Path(path).exists() else []


def fail_until(path, times):
    """Fails the first *times* times that it is called."""
    append_line(path, os.getpid())
    if len(lines(path)) <= times:
        raise OSError("not yet")
    return len(lines(path))


def mark_and_add(path, x):
    append_line(path, x)
    return x + 1


state = None


def set_state(value):
    global state
    state = value


def get_state(_=None):
    return state


def my_pid(_=None):
    return os.getpid()


def return_arguments(*args):
    return args


def who_am_i():
    """Name, parent and key of this process as multiprocessing knows them."""
    me = multiprocessing.current_process()
    return me.name, multiprocessing.parent_process(), bytes(me.authkey)


def run_script(path, *words):
    """Run the script at *path* by itself."""
    return subprocess.run([sys.executable, path, *words], capture_output=True, text=True, timeout=60, check=False)
