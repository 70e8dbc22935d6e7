"""G7 on the portable path: whoever dies using a FileQueue, at whatever line, tears, doubles and shuts nothing.

A process is killed before each line that it runs of the queue's own code, one after the other, in every operation.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from multitask._engine.queueing import filelock, filelog, files

HERE = Path(files.__file__).parent
MODULES = {str(HERE / f"{name}.py") for name in ("files", "filelog", "filelock", "level")}
HANG_SECONDS = 60.0
START = [0, "one", b"2" * 300]


def killed_at(line: int, act) -> bool:
    """Do ``act()`` in a forked child that is killed before the *line*-th line it runs of the queue's code."""
    pid = os.fork()
    if not pid:
        left = line

        def trace(frame, event, _arg):
            nonlocal left
            if frame.f_code.co_filename not in MODULES:
                return None
            if event == "line":
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


LOCKS = {"description": filelock.DescriptionLock, "process": filelock.ProcessLock}

# What is done, and what may be in the queue afterwards.
OPERATIONS = {
    "put": (lambda q: q.put("new"), [START, [*START, "new"]]),
    "put_many": (lambda q: q.put_many(["a", "b"]), [START, [*START, "a", "b"]]),
    "get": (lambda q: q.get(), [START, START[1:]]),
    "get_many": (lambda q: q.get_many(), [START, []]),
    "task_done": (lambda q: q.task_done(), [START]),
    "shutdown": (lambda q: q.shutdown(), [START]),
    "shutdown_immediate": (lambda q: q.shutdown(True), [START, []]),
}


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_death_before_any_line_of(name, lock, monkeypatch):
    if lock == "process":
        monkeypatch.setattr(filelock, "best", filelock.ProcessLock)
    monkeypatch.setattr(filelog, "KEEP_BYTES", 100)  # so that what is left is moved up and the file cut
    operation, allowed = OPERATIONS[name]
    seen: Counter[int] = Counter()
    line = 0
    while True:
        line += 1
        q = files.FileQueue(10)
        assert isinstance(q._parts.lock, LOCKS[lock])
        q.put_many([b"read", *START])
        q.get()  # so that there is something to give back
        died = killed_at(line, lambda q=q: operation(q))
        seen[check_alive(q, allowed)] += 1
        if not died:
            break
    print(f"\n{name} with the {lock} lock: killed before {line - 1} lines; outcomes {dict(seen)}")
    assert line > 20, "hardly any line of the queue was run: the test has lost sight of it"
    assert len(seen) == len(allowed), "each outcome is seen: killed before and after what counts"


def check_alive(q: files.FileQueue, allowed: list[list[object]]) -> int:
    """Which of the allowed contents it has; it must work on, whatever it was doing."""
    size, shut = q.qsize(), q.is_shutdown
    begun = time.monotonic()
    items = []
    try:
        while True:
            items.append(q.get(block=False))
    except (q.Empty, q.ShutDown):
        pass
    assert items in allowed and size == len(items)
    assert q.put_count - q.got_count == 0
    if not shut:
        q.put("after", block=False)
        assert q._parts.items.descriptors and readable(q._parts.items)
        assert q.get(timeout=1) == "after" and not readable(q._parts.items)
    q.task_done(q.unfinished_tasks) if q.unfinished_tasks else None
    assert readable(q._parts.done)
    assert time.monotonic() - begun < 1.0, "somebody waited for the dead"
    return allowed.index(items)


def readable(level) -> bool:
    import select

    return bool(select.select([level.descriptors[0]], [], [], 0)[0])


RECORD = struct.Struct("=QQ")


def _produce(q, number, on):
    item = 0
    while on:
        q.put((number, item, b"p" * (item % 700)))
        item += 1


def _consume(q, report):
    while True:
        number, item, data = q.get()
        assert data == b"p" * (item % 700)
        os.write(report, RECORD.pack(number, item))


def _fork(call, *args):
    pid = os.fork()
    if not pid:
        try:
            call(*args)
        finally:
            os._exit(1)
    return pid


@pytest.mark.slow
def test_200_kills_at_random_moments_lose_only_what_a_consumer_held():
    chance = random.Random(7)
    q = files.FileQueue(20)
    out, report = os.pipe()
    got: list[tuple[int, int]] = []
    killed_consumers = killed = 0
    number = 0
    workers: list[tuple[int, bool]] = []
    data = b""
    try:
        while killed < 200:
            while len(workers) < 4:
                producer = sum(is_producer for _, is_producer in workers) < 2
                call = (_produce, q, number, True) if producer else (_consume, q, report)
                workers.append((_fork(*call), producer))
                number += producer
            data += os.read(out, 1 << 16)
            time.sleep(chance.random() * 0.004)
            pid, producer = workers.pop(chance.randrange(4))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed += 1
            killed_consumers += not producer
    finally:
        for pid, _ in workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed_consumers += 1
    q.shutdown()
    left = [(n, item) for n, item, data_ in q if data_ == b"p" * (item % 700)]
    os.close(report)
    while chunk := os.read(out, 1 << 16):
        data += chunk
    os.close(out)
    got = [*RECORD.iter_unpack(data), *left]
    assert len(got) == len(set(got)), "an item came twice"
    lost = q.put_count - len(got)
    print(f"\n{killed} kills, {killed_consumers} of consumers: {q.put_count} put, {len(got)} got, {lost} lost")
    assert 0 <= lost <= killed_consumers
    last = Counter()
    for n, item in got:
        last[n] = max(last[n], item + 1)
    # Each producer's items are a run from 0 on, but for those that died with their consumer.
    assert sum(last.values()) - len(got) <= lost
