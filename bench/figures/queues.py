"""Queues between processes and between threads: messages, round trips, large ones, memory after a burst."""

from __future__ import annotations

import gc
import os
import signal
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import processes
from queue_peers import BETWEEN_PROCESSES, BETWEEN_THREADS, OURS, Line, OursWithoutSpin

from figures.figure import Figure, Goal, Report, Size, Value

MIB = 1 << 20
BATCH = 1000
TITLES = {name: line.title for name, line in BETWEEN_PROCESSES.items()}
THREAD_TITLES = {name: line.title for name, line in BETWEEN_THREADS.items()}
PROCESSES = tuple(BETWEEN_PROCESSES)
MANY = (OURS, "mp", "faster-fifo")


@contextmanager
def children(count: int, work: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """*count* forked children that wait for the go, then do ``work(number)``; they are over afterwards."""
    ready, on_ready = os.pipe()
    gate, on_go = os.pipe()
    pids = []
    for number in range(count):
        pid = os.fork()
        if not pid:
            os.close(on_go)
            try:
                os.write(on_ready, b".")
                os.read(gate, 1)
                work(number)
            finally:
                os._exit(0)
        pids.append(pid)

    def go() -> None:
        os.close(on_go)

    for _ in range(count):
        os.read(ready, 1)
    try:
        yield go
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _message(kind: int, number: int) -> Any:
    """An int where *kind* is 0, else that many bytes."""
    return bytes([number & 255]) * kind if kind else number


def stream(name: str, size: Size, report: Report) -> None:
    """*producers* processes put, this one gets them all."""
    line = BETWEEN_PROCESSES[name]()
    producers, length = size["producers"], size["bytes"]
    each = max(200, size["messages"] // line.slow) // producers

    def produce(number: int) -> None:
        put, through = line.producer()
        message = _message(length, number)
        if length:
            for _ in range(each):
                put(message)
        else:
            for item in range(each):
                put(item)
        through()
        signal.pause()  # whoever closes now may lose what is under way

    get = line.consumer()
    with children(producers, produce) as go:
        begin = perf_counter()
        go()
        for _ in range(each * producers - 1):
            get()
        last = get()
        seconds = perf_counter() - begin
        assert len(last) == length if length else last == each - 1 or producers > 1
        rate = each * producers / seconds
        values = {"rate": rate}
        if length >= MIB:
            values |= {"gib": rate * length / (1 << 30), "memcpy": rate * length / (1 << 30) / memcpy_gib()}
        report(values)


def memcpy_gib() -> float:
    """GiB a second of a plain copy, 1 MiB at a time between warm buffers too large for the caches, here and now."""
    source, target = memoryview(bytearray(128 * MIB)), memoryview(bytearray(128 * MIB))
    rates = []
    for turn in range(4):
        for at in range(0, len(source), MIB):
            begin = perf_counter()
            target[at : at + MIB] = source[at : at + MIB]
            if turn:  # the first touches the pages
                rates.append(MIB / (perf_counter() - begin) / (1 << 30))
    return statistics.median(rates)


def many(name: str, size: Size, report: Report) -> None:
    """One process puts a thousand at a time, this one gets what is there; who cannot goes one by one."""
    line = BETWEEN_PROCESSES[name]()
    count = size["messages"]

    def produce(_number: int) -> None:
        if line.put_many is not None:
            for begin in range(0, count, BATCH):
                line.put_many(list(range(begin, begin + BATCH)))
        else:
            put, _through = line.producer()
            for item in range(count):
                put(item)
        signal.pause()

    get_many, get = line.get_many, line.consumer()
    with children(1, produce) as go:
        begin = perf_counter()
        go()
        got = total = 0
        while got < count:
            items = get_many() if get_many is not None else [get()]
            got += len(items)
            total += sum(items)
        seconds = perf_counter() - begin
        assert total == count * (count - 1) // 2
        report({"rate": count / seconds})


def ping_pong(name: str, size: Size, report: Report) -> None:
    """A message to a process and back, one after the other."""
    _trips(BETWEEN_PROCESSES[name], size, report)


def ping_pong_without_spin(name: str, size: Size, report: Report) -> None:
    _trips(OursWithoutSpin if name == OURS else BETWEEN_PROCESSES[name], size, report)


def _trips(kind: type[Line], size: Size, report: Report) -> None:
    there, back = kind(), kind()
    count = max(200, size["trips"] // kind.slow)

    def echo(_number: int) -> None:
        get = there.consumer()
        put, _through = back.producer()
        while True:
            put(get())

    with children(1, echo) as go:
        go()
        put, _through = there.producer()
        get = back.consumer()
        times = []
        for number in range(count):
            begin = perf_counter()
            put(number)
            assert get() == number
            times.append(perf_counter() - begin)
        times = sorted(times[count // 10 :])
        report({"median": statistics.median(times) * 1e6, "p99": times[len(times) * 99 // 100] * 1e6})


def threads(name: str, size: Size, report: Report) -> None:
    """*producers* threads put, the main thread gets."""
    line = BETWEEN_THREADS[name]()
    producers = size["producers"]
    each = size["messages"] // producers
    gate = threading.Barrier(producers + 1)

    def produce() -> None:
        put, _through = line.producer()
        gate.wait()
        for item in range(each):
            put(item)

    workers = [threading.Thread(target=produce) for _ in range(producers)]
    for worker in workers:
        worker.start()
    get = line.consumer()
    gate.wait()
    begin = perf_counter()
    for _ in range(each * producers):
        get()
    seconds = perf_counter() - begin
    for worker in workers:
        worker.join()
    report({"rate": each * producers / seconds})


def burst(name: str, size: Size, report: Report) -> None:
    """Memory beyond what there was before, while a burst waits and when it has been taken."""
    line = BETWEEN_PROCESSES[name]()
    token = os.environ[processes.TOKEN]
    put, _through = line.producer()
    get = line.consumer()
    put(bytes(MIB))
    get()
    gc.collect()
    before = processes.tree_use(token)
    for number in range(size["mebibytes"]):
        put(bytes([number & 255]) * MIB)
    during = processes.tree_use(token) - before
    for _ in range(size["mebibytes"]):
        get()
    gc.collect()
    report({"during": during / MIB, "after": (processes.tree_use(token) - before) / MIB})


def _rate(heading: str, *goals: Goal) -> Value:
    return Value("rate", heading, 0, goals=goals)


_FIRST = Goal("place", "first")

FIGURES = (
    Figure(
        "int", "Small ints, one producer process, one consumer process", (
            _rate("messages per second", Goal("ratio", "at least", 10), _FIRST),
        ), PROCESSES, stream,
        full={"producers": 1, "bytes": 0, "messages": 400_000}, quick={"producers": 1, "bytes": 0, "messages": 40_000},
        row_titles=TITLES, what="queue",
    ),
    Figure(
        "many", "The same with `put_many` of 1,000 and `get_many`", (
            _rate("messages per second", _FIRST),
        ), MANY, many,
        full={"messages": 1_000_000}, quick={"messages": 100_000}, row_titles=TITLES, what="queue",
        remarks="multiprocessing.Queue has no such calls and goes one by one.",
    ),
    Figure(
        "four", "Small ints, four producer processes, one consumer process", (
            _rate("messages per second", Goal("ratio", "at least", 8), _FIRST),
        ), tuple(name for name in PROCESSES if name != "mp-pipe"), stream,
        full={"producers": 4, "bytes": 0, "messages": 400_000}, quick={"producers": 4, "bytes": 0, "messages": 40_000},
        row_titles=TITLES, what="queue",
        remarks="Producers of pyzmq stay alive until the last message was got: those that close lose some.",
    ),
    Figure(
        "1-kib", "1 KiB of bytes, one to one", (
            _rate("messages per second", Goal("ratio", "at least", 8)),
        ), PROCESSES, stream,
        full={"producers": 1, "bytes": 1024, "messages": 300_000},
        quick={"producers": 1, "bytes": 1024, "messages": 30_000}, row_titles=TITLES, what="queue",
    ),
    Figure(
        "1-mib", "1 MiB of bytes, one to one", (
            _rate("messages per second", Goal("ratio", "at least", 9)),
            Value("gib", "GiB/s", 2, ratio=False),
            Value("memcpy", "of a plain copy", 2, ratio=False),
        ), PROCESSES, stream,
        full={"producers": 1, "bytes": MIB, "messages": 3000}, quick={"producers": 1, "bytes": MIB, "messages": 500},
        row_titles=TITLES, what="queue",
        remarks=(
            "A plain copy: 1 MiB after the other from one warm buffer of 128 MiB into another, in one process, just "
            "after. A message is copied twice: in and out."
        ),
    ),
    Figure(
        "ping-pong", "An int to a process and back, with a short spin where a CPU is free", (
            Value("median", "median, µs", 1, False, goals=(Goal("ratio", "at most", 0.3),)),
            Value("p99", "99th percentile, µs", 1, False),
        ), PROCESSES, ping_pong,
        full={"trips": 10_000}, quick={"trips": 2000}, baseline="mp-pipe", row_titles=TITLES, what="queue",
    ),
    Figure(
        "ping-pong-asleep", "The same without the spin", (
            Value("median", "median, µs", 1, False, goals=(Goal("ratio", "at most", 1.0),)),
            Value("p99", "99th percentile, µs", 1, False),
        ), (OURS, "mp-pipe"), ping_pong_without_spin,
        full={"trips": 10_000}, quick={"trips": 2000}, baseline="mp-pipe", row_titles=TITLES, what="queue",
    ),
    Figure(
        "threads", "Small ints between two threads", (
            _rate("messages per second", Goal("ratio", "at least", 1)),
        ), tuple(BETWEEN_THREADS), threads,
        full={"producers": 1, "messages": 300_000}, quick={"producers": 1, "messages": 50_000},
        baseline="queue", row_titles=THREAD_TITLES, what="queue",
    ),
    Figure(
        "four-threads", "Small ints, four producer threads, one consumer thread", (
            _rate("messages per second", Goal("ratio", "at least", 1)),
        ), tuple(BETWEEN_THREADS), threads,
        full={"producers": 4, "messages": 300_000}, quick={"producers": 4, "messages": 50_000},
        baseline="queue", row_titles=THREAD_TITLES, what="queue",
    ),
    Figure(
        "burst", "1 GiB put in messages of 1 MiB before anything is got", (
            Value("during", "memory while it waits, MiB", 0, False, ratio=False),
            Value("after", "when all is taken, MiB", 0, False, ratio=False, goals=(Goal("value", "at most", 16),)),
        ), (OURS, "mp"), burst,
        full={"mebibytes": 1024}, quick={"mebibytes": 128}, row_titles=TITLES, most_rounds=2, what="queue",
        remarks="multiprocessing.Queue keeps the burst as objects of the producer until its thread has written them.",
    ),
)  # fmt: skip
