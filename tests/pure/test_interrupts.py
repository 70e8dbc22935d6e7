"""Ctrl-C at every point of submit, withdraw and wait at which Python may run a signal handler: nothing is lost.

CPython looks for signals after each call into C, at the entry of each function written in Python and at each jump
backwards. A tracer counts these points inside the engine and raises KeyboardInterrupt at the first, then
in another run at the second, and so on until the operation gets through.
"""

from __future__ import annotations

import dis
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

from multitask._engine.channels.memory import MemoryChannel
from multitask._engine.core import CANCELLED, PENDING, TAKEN_BACK
from multitask._engine.portable import PortableCore
from multitask._engine.workers.thread import ThreadWorker

OURS = ("portable", "threadlanes", "taskbase", "memory", "bell", "ledger")
AFTER = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME"}


class Interrupt:
    """Raises KeyboardInterrupt at one of the points of this thread inside the engine."""

    def __init__(self, point: int) -> None:
        self.left = point
        self.struck = False
        self._thread = threading.get_ident()
        self._before: dict[int, tuple[FrameType, str]] = {}  # by id: frames are held, so no number comes twice

    def __enter__(self) -> Interrupt:
        if sys.version_info >= (3, 12):
            self._watch(sys.monitoring.events.INSTRUCTION)
        else:
            sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        if sys.version_info >= (3, 12):
            self._watch(0)
        else:
            sys.settrace(None)
        self._before.clear()

    if sys.version_info >= (3, 12):

        def _watch(self, events: int) -> None:
            # f_trace_opcodes, set in a frame that runs already, is heeded late or never by 3.14.
            tool = sys.monitoring.DEBUGGER_ID
            if events:
                sys.monitoring.use_tool_id(tool, "interrupts")
                sys.monitoring.register_callback(tool, events, self._instruction)
            for code in codes():
                sys.monitoring.set_local_events(tool, code, events)
            if not events:
                sys.monitoring.register_callback(tool, sys.monitoring.events.INSTRUCTION, None)
                sys.monitoring.free_tool_id(tool)

        def _instruction(self, code: CodeType, offset: int) -> None:
            if threading.get_ident() == self._thread:
                self._step(sys._getframe(1), offset)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        if self.struck or frame.f_code not in codes():
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False

        def local(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "opcode":
                self._step(frame, frame.f_lasti)
            return local

        return local

    def _step(self, frame: FrameType, offset: int) -> None:
        if self.struck:
            return
        _, before = self._before.get(id(frame), (frame, "RESUME"))
        if before in AFTER:
            if self.left == 0:
                self.struck = True
                raise KeyboardInterrupt
            self.left -= 1
        self._before[id(frame)] = frame, operations(frame.f_code).get(offset, "")


@cache
def operations(code: CodeType) -> dict[int, str]:
    return {each.offset: each.opname for each in dis.get_instructions(code)}


@cache
def codes() -> frozenset[CodeType]:
    """The code of every function and method of the engine's modules named in OURS."""
    found: list[CodeType] = []
    for name, module in list(sys.modules.items()):
        if name.startswith("multitask._engine") and name.rpartition(".")[2] in OURS:
            path = module.__file__
            things = [thing for thing in gc.get_objects() if type(thing) is FunctionType]
            found += [thing.__code__ for thing in things if thing.__code__.co_filename == path]
    return frozenset(found)


class Pool:
    def __init__(self, workers: int) -> None:
        self.core = PortableCore()
        self.over = False
        self.workers = []
        self.manager = threading.Thread(target=self.manage)
        self.manager.start()
        for wid in range(workers):
            channel = MemoryChannel()
            self.core.add_worker(wid, channel)
            self.workers.append(ThreadWorker(channel))
            self.workers[-1].start()

    def manage(self) -> None:
        while not self.over:
            self.core.attend(None)

    def close(self) -> None:
        self.over = True
        self.core.post(None)
        self.manager.join()
        self.core.dispose()
        for worker in self.workers:
            assert worker.join(20)


@pytest.fixture
def make_pool() -> Iterator[Callable[[int], Pool]]:
    pools: list[Pool] = []

    def make(workers: int) -> Pool:
        pools.append(Pool(workers))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def test_a_submit_interrupted_anywhere_runs_the_task_or_not_and_harms_nobody(
    make_pool: Callable[[int], Pool],
) -> None:
    points = 0
    while True:
        pool = make_pool(1)
        while not pool.workers[0].channel.asleep:
            threading.Event().wait(0.001)
        ran = threading.Event()
        try:
            with Interrupt(points) as interrupt:
                pool.core.submit(ran.set, (), None)
        except KeyboardInterrupt:
            pass
        # If the task got in, it runs without anybody asking again.
        if pool.core._entered or pool.core._inbox:
            assert ran.wait(20), f"lost at point {points}"
        follow = pool.core.submit(abs, (1,), None)
        assert pool.core.wait(follow, 20)
        while pool.core.unfinished:
            threading.Event().wait(0.001)
        if not interrupt.struck:
            break
        points += 1
    assert points > 5


def test_a_withdraw_interrupted_anywhere_takes_the_task_back_or_leaves_it(make_pool: Callable[[int], Pool]) -> None:
    pool = make_pool(0)
    points = 0
    while True:
        task = pool.core.submit(abs, (1,), None)
        answer = None
        try:
            with Interrupt(points) as interrupt:
                answer = pool.core.withdraw(task)
        except KeyboardInterrupt:
            pass
        if task._status == PENDING and answer is None:
            # Either nothing has happened, or the verdict stands and the next one to come settles it.
            answer = pool.core.withdraw(task)
        assert pool.core.wait(task, 20), f"left half way at point {points}"
        assert task._status == CANCELLED
        if not interrupt.struck:
            assert answer == TAKEN_BACK
            break
        points += 1
    assert points > 5
    assert pool.core.unfinished == 0


def test_a_withdraw_interrupted_anywhere_settles_for_those_who_wait(make_pool: Callable[[int], Pool]) -> None:
    # As above, but nobody withdraws again: a task with a verdict is settled when the line reaches it.
    points = 0
    while True:
        pool = make_pool(0)
        task = pool.core.submit(abs, (1,), None)
        try:
            with Interrupt(points) as interrupt:
                pool.core.withdraw(task)
        except KeyboardInterrupt:
            pass
        channel = MemoryChannel()
        pool.core.add_worker(0, channel)
        pool.workers.append(ThreadWorker(channel))
        pool.workers[0].start()
        assert pool.core.wait(task, 20), f"left half way at point {points}"
        if not interrupt.struck:
            break
        points += 1
    assert points > 5


def test_a_wait_interrupted_anywhere_can_be_repeated(make_pool: Callable[[int], Pool]) -> None:
    pool = make_pool(1)
    points = 0
    while True:
        gate = threading.Event()
        task = pool.core.submit(gate.wait, (20,), None)
        opener = threading.Timer(0.002, gate.set)
        opener.start()
        try:
            with Interrupt(points) as interrupt:
                pool.core.wait(task, 20)
        except KeyboardInterrupt:
            pass
        assert pool.core.wait(task, 20)
        opener.join()
        if not interrupt.struck:
            break
        points += 1
    assert points > 3
