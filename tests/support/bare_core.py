"""The little that a TaskBase asks of its core, with every call written down."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from multitask._engine.core import CANCELLED, FINISHED
from multitask._engine.taskbase import Basket, TaskBase, cancelled


class Task(TaskBase, concurrent.futures.Future):  # type: ignore[type-arg,misc]
    __slots__ = ()


class Callbacks:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, list[Any]]] = []

    def put(self, task: Any, hooks: list[Any]) -> None:
        self.calls.append((task, list(hooks)))


class Encoder:
    """Decodes ("ok", x) to x, and counts."""

    def __init__(self) -> None:
        self.loads = 0
        self.during: Callable[[], object] = lambda: None

    def load(self, parcel: Any) -> Any:
        self.loads += 1
        self.during()
        if isinstance(parcel, BaseException):
            raise parcel
        return [parcel]

    def load_error(self, parcel: Any) -> BaseException:
        self.loads += 1
        return ValueError(parcel)


class Core:
    def __init__(self) -> None:
        self.callbacks = Callbacks()
        self.failures: list[Any] = []
        self.encoder = Encoder()
        self.busy: set[Any] = set()

    def running(self, task: Any) -> bool:
        return task in self.busy

    def settle(self, task: Any, status: int, ok: bool, value: Any) -> None:
        task._settle(status, ok, value, isinstance(value, Basket))


def finish(task: Any, value: Any = 1) -> bool:
    return bool(task._settle(FINISHED, True, value))


def fail(task: Any, error: BaseException) -> bool:
    return bool(task._settle(FINISHED, False, error))


def drop(task: Any) -> bool:
    return bool(task._settle(CANCELLED, False, cancelled()))


class Waiter:
    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def add_result(self, task: Any) -> None:
        self.told.append(("result", task))

    def add_exception(self, task: Any) -> None:
        self.told.append(("exception", task))

    def add_cancelled(self, task: Any) -> None:
        self.told.append(("cancelled", task))
