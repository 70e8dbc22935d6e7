"""Who runs next: the order in which waiting tasks leave the line.

A policy gives each task a *key* once, when it is submitted; the smallest key runs first, equal keys in
order of submission. Because keys never change, the line needs no re-sorting and a waiting task costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from multitask._engine.core import Options

__all__ = ["FIFO", "Policy", "Priority", "make"]


@runtime_checkable
class Policy(Protocol):
    """What the pool asks of a policy; ``key`` runs in the thread that submits."""

    def key(self, options: Options | None, now: float) -> float:
        """The place in the line of a task submitted at *now* (monotonic seconds); smaller runs first."""
        ...


class FIFO:
    """First in, first out."""

    def key(self, options: Options | None, now: float) -> float:
        """The same for all: the order of submission decides."""
        return 0.0

    def __repr__(self) -> str:
        return "FIFO()"


class Priority:
    """Higher ``priority`` first, and nobody starves: waiting makes up for priority.

    One level of priority is worth *ageing* seconds of waiting. So a task of priority *p* is overtaken only by
    tasks of a higher priority *q* that were submitted less than ``(q - p) * ageing`` seconds after it.
    """

    def __init__(self, ageing: float = 1.0) -> None:
        if not ageing > 0 or ageing == float("inf"):
            raise ValueError(f"ageing must be a positive number of seconds, not {ageing!r}")
        self.ageing = float(ageing)

    def key(self, options: Options | None, now: float) -> float:
        """The moment at which a task of priority 0 would have had to be submitted to stand here."""
        return now if options is None else now - options.priority * self.ageing

    def __repr__(self) -> str:
        return f"Priority(ageing={self.ageing:g})"


_BY_NAME: dict[str, Callable[[], Policy]] = {"fifo": FIFO, "priority": Priority}


def make(policy: str | Policy) -> Policy:
    """The policy of that name (``"fifo"``, ``"priority"``), or *policy* itself when it already is one."""
    if isinstance(policy, str):
        kind = _BY_NAME.get(policy.lower())
        if kind is None:
            known = ", ".join(repr(name) for name in sorted(_BY_NAME))
            raise ValueError(f"unknown policy {policy!r}; known are {known}, or give an object with a method key()")
        return kind()
    if isinstance(policy, type):
        raise TypeError(f"policy must be an object, not the class {policy.__name__}; write policy={policy.__name__}()")
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a name or have a method key(options, now), not {policy!r}")
    return policy
