"""What the fault tests have workers do: leave traces, die in every way, never end."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from typing import Any


class Diary:
    """A file that tasks append lines to, each in one write: nothing of it is lost when the writer dies."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, *words: object) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, (" ".join(map(str, words)) + "\n").encode())
        finally:
            os.close(fd)

    def lines(self) -> list[list[str]]:
        try:
            with open(self.path) as file:
                return [line.split() for line in file]
        except FileNotFoundError:
            return []


def record(path: str, number: int, *rest: Any) -> int:
    """Write down that task *number* runs; returns *number*."""
    Diary(path).write(number, os.getpid(), time.monotonic())
    return number


def record_item(pair: tuple[str, int]) -> int:
    return record(*pair)


def record_size(path: str, number: int, content: bytes, size: int) -> tuple[int, int, bytes]:
    record(path, number)
    return number, len(content), bytes(size)


def nap_and_record(path: str, number: int, seconds: float) -> int:
    time.sleep(seconds)
    return record(path, number)


def add_one(x: int) -> int:
    return x + 1


def pid(_: object = None) -> int:
    return os.getpid()


def content(size: int) -> bytes:
    return bytes(size)


def length(content: bytes) -> int:
    return len(content)


def never(*_: object) -> None:
    while True:
        signal.pause()


def never_after_record(path: str, number: int) -> None:
    record(path, number)
    never()


def never_in_c(path: str, number: int) -> None:
    """Busy in one C call that lets nobody else have the GIL."""
    record(path, number)
    pow(3, 10**9)


def never_with_child(path: str, number: int) -> None:
    """Never ends, and neither does the program that it has started."""
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    Diary(path).write(number, child.pid, time.monotonic())
    never_after_record(path, number)


def never_with_setsid(path: str, number: int) -> None:
    """Its child has left the process group."""
    child = os.fork()
    if child == 0:
        os.setsid()
        Diary(path).write(number, os.getpid(), time.monotonic())
        never()
    never_after_record(path, number)


def stop_self(path: str, number: int) -> None:
    record(path, number)
    os.kill(os.getpid(), signal.SIGSTOP)
    never()


def run_or_never(path: str, number: int) -> int:
    """Tasks 10, 50 and 90 never end, each in a way of its own."""
    if number in (10, 50, 90):
        {10: never_after_record, 50: never_with_child, 90: never_with_setsid}[number](path, number)
    return record(path, number)


# --- ways to die --------------------------------------------------------------------------------------------


def die(way: str) -> None:
    if way == "_exit":
        os._exit(7)
    elif way == "_exit 0":
        os._exit(0)
    elif way == "segfault":
        ctypes.string_at(0)
    elif way == "abort":
        os.abort()
    else:
        os.kill(os.getpid(), getattr(signal, way))
        never()


def die_at(path: str, item: int, fatal: int, way: str = "SIGKILL") -> int:
    record(path, item)
    if item == fatal:
        die(way)
    return item


def die_first_time(path: str, number: int, way: str = "SIGKILL") -> int:
    first = not any(line[0] == str(number) for line in Diary(path).lines())
    record(path, number)
    if first:
        die(way)
    return number


def fail_until(path: str, number: int, times: int) -> int:
    record(path, number)
    if sum(line[0] == str(number) for line in Diary(path).lines()) <= times:
        raise OSError("not yet")
    return number


def never_first_time(path: str, number: int) -> int:
    first = not any(line[0] == str(number) for line in Diary(path).lines())
    record(path, number)
    if first:
        never()
    return number


def sys_exit(code: int) -> None:
    sys.exit(code)


def note_and_die() -> None:
    from multitask import note

    note("at the cliff")
    die("SIGKILL")


# --- other things tasks do ----------------------------------------------------------------------------------


def read_stdin() -> str:
    return sys.stdin.read()


def fork_inside() -> int:
    """A child of the worker that comes back out of the task as if it were the worker."""
    child = os.fork()
    if child == 0:
        return -1
    os.waitpid(child, 0)
    return os.getpid()


def fork_and_raise() -> int:
    child = os.fork()
    if child == 0:
        raise ValueError("in the child")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def nested(start_method: str, depth: int) -> int:
    from multitask import Pool

    if depth == 0:
        return 1
    with Pool(2, start_method=start_method) as pool:
        return sum(pool.starmap(nested, [(start_method, depth - 1)] * 2))


def eat(size: int) -> int:
    return len(bytearray(size))


kept: list[bytearray | mmap.mmap] = []


def keep(size: int) -> int:
    kept.append(bytearray(b"x") * size)
    return os.getpid()


def keep_shared(size: int) -> int:
    """Memory that counts as occupied and not as private data."""
    memory = mmap.mmap(-1, size)
    for page in range(0, size, mmap.PAGESIZE):
        memory[page] = 1
    kept.append(memory)
    return os.getpid()


# --- limits of this process ---------------------------------------------------------------------------------


def lower(what: int, value: int | None) -> None:
    """Lower a limit, or with None put it back as high as it may be."""
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (hard if value is None else value, hard))


def first_free() -> int:
    """The number that the next descriptor gets; as the limit it leaves none."""
    fd = os.dup(0)
    os.close(fd)
    return fd


def address_space() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()
