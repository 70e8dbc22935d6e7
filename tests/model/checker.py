"""Tries every interleaving of a small protocol, with the death of its parties at every step.

A protocol is written as parties (threads, processes) that each walk over labelled steps. One step is
one access to shared memory together with the private work around it. The checker walks breadth first
over everything that can happen and demands three things:

* no reachable state is bad (``Model.bad``);
* where nothing can move any more, everything is as it should be (``Model.at_rest``): a lost wake-up
  shows as a state at rest in which somebody still waits;
* from every state such a good end can still be reached without anybody's death or a signal: no livelock.

Memory is weak where a party is ``buffered``: its stores wait in a buffer and come out in any order that
C11 allows for them (a release store comes out after everything before it, a later plain store may
overtake it; two stores to one place keep their order). ``fence`` and ``cas`` empty the buffer. Loads are
not reordered; a missing acquire is the thread sanitizer's business.

Death is SIGKILL: the party stops between two steps and what it stored becomes visible.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

DEAD = "dead"
END = "end"


class State(dict[Hashable, Any]):
    """Everything that is true at one moment. ``m.word`` and ``m["ring", 0]`` both work."""

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getattr__(self, name: str) -> Any:
        return self[name]


Step = Callable[[State], str | None]
StepT = TypeVar("StepT", bound=Step)
Judge = Callable[[State], str | None]


class Party:
    """One thread or process: steps by label, each returning the next label or None while it cannot go on."""

    def __init__(
        self,
        name: str,
        start: str,
        *,
        mortal: bool = False,
        buffered: bool = False,
        on_death: Callable[[State], None] | None = None,
    ) -> None:
        self.name = name
        self.start = start
        self.mortal = mortal
        self.buffered = buffered
        self.on_death = on_death
        self.at = ("at", name)
        self.buffer = ("buffer", name)
        self.steps: dict[str, list[Step]] = {}
        self.blows: dict[str, list[Step]] = {}

    def blow(self, fn: StepT) -> StepT:
        """Add what fate may do to the party at a label (a signal, a stop); like a death it is no progress."""
        self.blows.setdefault(fn.__name__.split("_or_")[0], []).append(fn)
        return fn

    def step(self, fn: StepT) -> StepT:
        """Add a step; its label is the function's name, a trailing ``_or_…`` names an alternative."""
        self.steps.setdefault(fn.__name__.split("_or_")[0], []).append(fn)
        return fn

    def load(self, m: State, place: Hashable) -> Any:
        for where, value, _ in reversed(m[self.buffer]):
            if where == place:
                return value
        return m[place]

    def store(self, m: State, place: Hashable, value: Any, *, release: bool = True) -> None:
        if self.buffered:
            m[self.buffer] += ((place, value, release),)
        else:
            m[place] = value

    def fence(self, m: State) -> None:
        for place, value, _ in m[self.buffer]:
            m[place] = value
        m[self.buffer] = ()

    def cas(self, m: State, place: Hashable, old: Any, new: Any) -> bool:
        self.fence(m)
        if m[place] != old:
            return False
        m[place] = new
        return True

    def may_come_out(self, m: State) -> list[int]:
        """The stores in the buffer that may become visible next."""
        seen: list[Hashable] = []
        ready = []
        for index, (place, _, release) in enumerate(m[self.buffer]):
            if place not in seen and not (release and index):
                ready.append(index)
            seen.append(place)
        return ready


class Violation(AssertionError):
    """The protocol can go wrong; the text shows how, step by step."""


@dataclass
class Model:
    """A protocol: its parties, the memory at the start, and what must never or must finally be."""

    parties: list[Party]
    memory: dict[Hashable, Any]
    bad: Judge
    at_rest: Judge
    deaths: int = 1


@dataclass
class Explored:
    """How large the space was."""

    states: int = 0
    moves: int = 0
    good_ends: int = 0


@dataclass
class _Search:
    model: Model
    limit: int
    states: list[State] = field(default_factory=list)
    origin: list[tuple[int, str]] = field(default_factory=list)
    known: dict[tuple[Any, ...], int] = field(default_factory=dict)
    before: list[list[int]] = field(default_factory=list)
    good: list[int] = field(default_factory=list)
    moves: int = 0

    def run(self) -> Explored:
        first = State(self.model.memory)
        first["deaths"] = 0
        for party in self.model.parties:
            first[party.at] = party.start
            first[party.buffer] = ()
        self._reach(first, -1, "start")
        queue = deque([0])
        while queue:
            queue.extend(self._expand(queue.popleft()))
        self._no_livelock()
        return Explored(len(self.states), self.moves, len(self.good))

    def _reach(self, m: State, origin: int, move: str) -> tuple[int, bool]:
        key = tuple(m.values())
        index = self.known.get(key)
        if index is not None:
            return index, False
        index = self.known[key] = len(self.states)
        self.states.append(m)
        self.origin.append((origin, move))
        self.before.append([])
        if index > self.limit:
            raise RuntimeError(f"the model has more than {self.limit} states")
        trouble = self.model.bad(m)
        if trouble:
            raise Violation(self._story(index, trouble))
        return index, True

    def _expand(self, index: int) -> list[int]:
        found = []
        resting = True
        for move, m in self._moves(self.states[index]):
            resting = False
            self.moves += 1
            target, new = self._reach(m, index, move)
            self.before[target].append(index)
            if new:
                found.append(target)
        if resting:
            trouble = self.model.at_rest(self.states[index])
            if trouble:
                raise Violation(self._story(index, f"nothing moves any more: {trouble}"))
            self.good.append(index)
        for move, m in self._deaths(self.states[index]) + self._blows(self.states[index]):
            self.moves += 1
            target, new = self._reach(m, index, move)
            if new:
                found.append(target)
        return found

    def _moves(self, m: State) -> list[tuple[str, State]]:
        moves = []
        for party in self.model.parties:
            for step in party.steps.get(m[party.at], ()):
                after = State(m)
                following = step(after)
                if following is not None:
                    after[party.at] = following
                    moves.append((f"{party.name}: {step.__name__}", after))
            if m[party.buffer]:
                for entry in party.may_come_out(m):
                    after = State(m)
                    place, value, _ = m[party.buffer][entry]
                    after[place] = value
                    after[party.buffer] = m[party.buffer][:entry] + m[party.buffer][entry + 1 :]
                    moves.append((f"{party.name}: ({place} = {value} becomes visible)", after))
        return moves

    def _deaths(self, m: State) -> list[tuple[str, State]]:
        if m["deaths"] >= self.model.deaths:
            return []
        moves = []
        for party in self.model.parties:
            if party.mortal and m[party.at] not in (DEAD, END):
                after = State(m)
                party.fence(after)
                after[party.at] = DEAD
                after["deaths"] += 1
                if party.on_death:
                    party.on_death(after)
                moves.append((f"{party.name}: killed at {m[party.at]}", after))
        return moves

    def _blows(self, m: State) -> list[tuple[str, State]]:
        moves = []
        for party in self.model.parties:
            for blow in party.blows.get(m[party.at], ()):
                after = State(m)
                following = blow(after)
                if following is not None:
                    party.fence(after)
                    after[party.at] = following
                    moves.append((f"{party.name}: {blow.__name__}", after))
        return moves

    def _no_livelock(self) -> None:
        hopeful = set(self.good)
        queue = deque(self.good)
        while queue:
            for index in self.before[queue.popleft()]:
                if index not in hopeful:
                    hopeful.add(index)
                    queue.append(index)
        for index in range(len(self.states)):
            if index not in hopeful:
                raise Violation(self._story(index, "from here on a good end is out of reach"))

    def _story(self, index: int, trouble: str) -> str:
        end = self.states[index]
        lines = []
        while index >= 0:
            origin, move = self.origin[index]
            lines.append("  " + move)
            index = origin
        memory = {k: v for k, v in end.items() if not isinstance(k, tuple) or k[0] != "buffer"}
        return "\n".join([trouble, *reversed(lines), f"  memory: {memory}"])


def explore(model: Model, limit: int = 150_000) -> Explored:
    """Walk over everything that can happen; raise Violation with the shortest story that goes wrong."""
    was_on = gc.isenabled()
    gc.disable()  # hundreds of thousands of states, none of them garbage
    try:
        return _Search(model, limit).run()
    finally:
        if was_on:
            gc.enable()
