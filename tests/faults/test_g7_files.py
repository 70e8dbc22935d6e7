"""G7 on the portable path: whoever dies using a FileQueue, at whatever line, tears, doubles and shuts nothing.

A process is killed before each line that it runs of the queue's own code, one after the other, in every operation.
"""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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


class Case(NamedTuple):
    """What is in the queue, what is done, and what may be in it afterwards."""

    start: list[object]
    act: Callable[[files.FileQueue], object]
    allowed: list[list[object]]


CASES = {
    "put": Case(START, lambda q: q.put("new"), [START, [*START, "new"]]),
    "put_into_the_empty": Case([], lambda q: q.put("new"), [[], ["new"]]),
    "put_the_last_there_is_room_for": Case(list("abcd"), lambda q: q.put("e"), [list("abcd"), list("abcde")]),
    "put_many": Case(START, lambda q: q.put_many(["a", "b"]), [START, [*START, "a", "b"]]),
    "get": Case(START, lambda q: q.get(), [START, START[1:]]),
    "get_the_last": Case(["last"], lambda q: q.get(), [["last"], []]),
    "get_from_the_full": Case(list("abcde"), lambda q: q.get(), [list("abcde"), list("bcde")]),
    "get_many": Case(START, lambda q: q.get_many(), [START, []]),
    "task_done": Case(["one"], lambda q: q.task_done(2), [["one"]]),
    "shutdown": Case([], lambda q: q.shutdown(), [[]]),
    "shutdown_immediate": Case(START, lambda q: q.shutdown(True), [START, []]),
}


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("read_before", [150, 900])  # less than what is left, or more: then that is moved up
@pytest.mark.parametrize("name", CASES)
def test_death_before_any_line_of(name, read_before, lock, monkeypatch):
    if lock == "process":
        monkeypatch.setattr(filelock, "best", filelock.ProcessLock)
    case = CASES[name]
    seen: Counter[int] = Counter()
    line = 0
    while True:
        line += 1
        monkeypatch.setattr(filelog, "KEEP_BYTES", 1 << 20)
        q = files.FileQueue(5)
        assert isinstance(q._parts.lock, LOCKS[lock])
        q.put(bytes(read_before))
        q.put_many(case.start[:4])
        q.get()
        q.put_many(case.start[4:])
        monkeypatch.setattr(filelog, "KEEP_BYTES", 100)  # from here on: what is moved up is moved under the killer
        died = killed_at(line, lambda q=q: case.act(q))
        seen[check_alive(q, case.allowed)] += 1
        if not died:
            break
    print(f"\n{name}, {read_before} read before, {lock} lock: {line - 1} deaths; outcomes {dict(seen)}")
    assert line > 20, "hardly any line of the queue was run: the test has lost sight of it"
    assert len(seen) == len(case.allowed), "each outcome is seen: killed before and after what counts"


def check_alive(q: files.FileQueue, allowed: list[list[object]]) -> int:
    """Which of the allowed contents it has; it must work on, whatever was being done."""
    size, shut = q.qsize(), q.is_shutdown
    begun = time.monotonic()
    q._step(lambda state: None)  # whoever has the lock next puts the levels right
    assert tuple(map(readable, q._parts.levels())) == q._levels(q._log.look())
    items = []
    try:
        while True:
            items.append(q.get(block=False))
    except (q.Empty, q.ShutDown):
        pass
    assert items in allowed and size == len(items)
    assert q.put_count == q.got_count
    if not shut:
        q.put("after", block=False)
        assert q.get(timeout=1) == "after"
    if q.unfinished_tasks:
        q.task_done(q.unfinished_tasks)
    q.join(0)
    assert time.monotonic() - begun < 1.0, "somebody waited for the dead"
    return allowed.index(items)


def readable(level) -> bool:
    return bool(select.select([level.descriptors[0]], [], [], 0)[0])


@pytest.mark.parametrize("lock", LOCKS)
def test_a_forked_child_does_not_share_the_hold_of_its_parent(lock, monkeypatch):
    if lock == "process":
        monkeypatch.setattr(filelock, "best", filelock.ProcessLock)
    q = files.FileQueue()
    assert q._parts.lock.attempt()
    assert _fork_and_ask(q._parts.lock.attempt) is False
    q._parts.lock.release()
    assert _fork_and_ask(q._parts.lock.attempt) is True
    assert q._parts.lock.attempt(), "its end lets go of it"
    q._parts.lock.release()


def _fork_and_ask(question) -> bool:
    pid = os.fork()
    if not pid:
        os._exit(question())
    return bool(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


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
