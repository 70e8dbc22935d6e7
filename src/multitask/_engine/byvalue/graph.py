"""What has to be in a worker before a payload can be read: definitions, bindings, and their closure.

A Definition is a function, class or other object with a number, sent once per worker. A Binding is one
value of one global name. The closure of a definition is everything it needs, found through the names
that functions read, with guards that tell cheaply whether it still holds.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import CellType, CodeType, FunctionType

from multitask._engine.byvalue.home import ABSENT, cell_content
from multitask._typing import Any, NamedTuple, Protocol


class Parcel(NamedTuple):
    """A pickle and the buffers that travel beside it (contiguous; they alias the live objects: copy or send soon)."""

    data: bytes
    buffers: tuple[memoryview | bytes, ...] = ()


class Kept(Parcel):
    """The content of a definition. While anybody holds it, the definition's number is not given up."""

    token: Token


class Fleeting(Kept):
    """The content of what is lent for one task: it must not be held any longer than that."""


class Token:
    """Puts a definition's number on the list of the dead when the last holder of its content is gone."""

    __slots__ = ("cells", "dead", "number")

    def __init__(self, number: int, dead: deque[int], cells: tuple[object, ...]) -> None:
        self.number = number  # 0: never given out
        self.dead = dead
        self.cells = cells  # what goes with it

    def __del__(self) -> None:
        if self.number:
            self.dead.append(self.number)  # atomic; may run in any thread, at any time


class CellToken:
    """A closure's cell with one content: functions that share the cell here share it in the worker.

    It must not hold the cell, which may lead back to the function that holds this token. A cell is known
    by the functions that own it: while one of them lives, so does the cell.
    """

    __slots__ = ("__weakref__", "_content", "_owners", "dead", "number")

    def __init__(self, number: int, dead: deque[int], content: tuple[Any, ...]) -> None:
        self.number = number
        self.dead = dead
        self._owners: list[weakref.ref[FunctionType]] = []
        self._content = hold(content[0]) if content else None

    def add_owner(self, fn: FunctionType) -> None:
        self._owners.append(weakref.ref(fn))

    def same(self, cell: CellType, content: tuple[Any, ...]) -> bool:
        owners = [owner() for owner in self._owners]
        if not any(fn is not None and any(own is cell for own in fn.__closure__ or ()) for fn in owners):
            return False
        if self._content is None or not content:
            return self._content is None and not content
        return self._content() is content[0]

    def __del__(self) -> None:
        self.dead.append(self.number)


Need = tuple[int, str | None, Parcel]
Stamp = tuple[Any, ...]


def stamp_of(subject: object) -> Stamp:
    """What must be the same objects for a definition of *subject* to still hold."""
    if type(subject) is FunctionType:
        cells = [cell_content(cell) for cell in subject.__closure__ or ()]
        return (subject.__code__, subject.__defaults__, subject.__kwdefaults__, *[c[0] if c else ABSENT for c in cells])
    return ()


def hold(value: Any) -> Callable[[], Any]:
    """A weak reference where that is possible and might break a cycle, else a strong one of the same look."""
    if type(value) not in _LEAVES:
        try:
            return weakref.ref(value)
        except TypeError:
            pass
    return lambda: value


_LEAVES = frozenset({int, float, bool, type(None), str, bytes, complex, type(ABSENT), CodeType})


class Definition:
    """One object that travels by value (or, with no reads and no stamp, by reference) under a number."""

    __slots__ = ("__weakref__", "built", "cells", "deps", "fresh", "number", "reads", "ref", "stamp", "subject")

    def __init__(self, number: int, subject: Any, fallen: deque[int]) -> None:
        self.number = number
        at = id(subject)
        try:
            self.subject: Callable[[], Any] = weakref.ref(subject, lambda _: fallen.append(at))
        except TypeError:
            self.subject = lambda: subject
        self.fresh: object = subject  # keeps a temporary object alive until it is written down
        self.stamp: tuple[Callable[[], Any], ...] = tuple([hold(part) for part in stamp_of(subject)])
        self.built: Need | None = None
        self.deps: tuple[Definition, ...] = ()
        self.reads: tuple[tuple[dict[str, Any], str, str], ...] = ()  # (global dict, name's key on the wire, name)
        self.cells: list[CellToken] = []
        self.ref: FunctionRef | None = None

    def holds(self, subject: object) -> bool:
        """Whether this is still the definition of *subject* as it is now."""
        if self.subject() is not subject:
            return False
        now = stamp_of(subject)
        return len(now) == len(self.stamp) and all(was() is part for was, part in zip(self.stamp, now, strict=True))


class Binding:
    """One value of one global name: its number, its content and the definitions that the content refers to."""

    __slots__ = ("deps", "missing", "need", "value")

    def __init__(self, value: object, need: Need, deps: tuple[Definition, ...], missing: bool) -> None:
        self.value = value
        self.need = need
        self.deps = deps
        self.missing = missing


class FunctionRef:
    """A function as tasks refer to it: its number and what a worker needs before it can be called.

    ``guards``: (dict, name, value) that must still be so, by identity (ABSENT: not bound). ``cells``: likewise
    for closures. ``weak``: further checks that must not keep what they check alive. ``valid()`` looks at all.
    """

    __slots__ = (
        "absent", "cells", "code", "defaults", "guards", "id", "kwdefaults", "needs", "subject", "weak", "weak_cells",
    )  # fmt: skip

    def __init__(self, definition: Definition, needs: tuple[Need, ...], checks: Checks | None) -> None:
        self.id = definition.number
        self.needs = needs
        self.subject = definition.subject
        fn = self.subject()
        by_value = checks is not None and type(fn) is FunctionType
        self.code: CodeType | None = fn.__code__ if by_value else None
        self.defaults: tuple[Any, ...] | None = fn.__defaults__ if by_value else None
        self.kwdefaults: dict[str, Any] | None = fn.__kwdefaults__ if by_value else None
        checks = checks or Checks()
        self.guards: tuple[tuple[dict[str, Any], str, object], ...] = tuple(checks.guards)
        self.cells = tuple(checks.cells)
        self.absent = tuple([(space, frozenset(names)) for space, names in checks.absent.values()])
        self.weak = tuple(checks.weak)
        self.weak_cells = tuple(checks.weak_cells)
        if (self.absent or self.weak or self.weak_cells) and not self.guards:
            # Who looks at the guards alone must not take it for a function that reads nothing.
            self.guards = (({}, "", ABSENT),)

    def valid(self) -> bool:
        """Whether it still describes its function: the same code, defaults, closure and globals."""
        if self.code is not None:
            fn = self.subject()
            if (
                fn is None
                or fn.__code__ is not self.code
                or fn.__defaults__ is not self.defaults
                or fn.__kwdefaults__ is not self.kwdefaults
            ):
                return False
        for space, name, value in self.guards:
            if space.get(name, ABSENT) is not value:
                return False
        for space, names in self.absent:
            if not space.keys().isdisjoint(names):
                return False
        for space, name, held in self.weak:
            value = held()
            if value is None or space.get(name) is not value:
                return False
        if self.cells or self.weak_cells:
            return self._cells_valid()
        return True

    def _cells_valid(self) -> bool:
        for cell, value in self.cells:
            try:
                if cell.cell_contents is not value:
                    return False
            except ValueError:
                if value is not ABSENT:
                    return False
        for function, at, held in self.weak_cells:
            fn = function()
            if fn is None:
                return False
            content = cell_content(fn.__closure__[at])
            if not content or content[0] is not held():
                return False
        return True


class Checks:
    """Collects what a FunctionRef checks."""

    def __init__(self) -> None:
        self.guards: list[tuple[dict[str, Any], str, object]] = []
        self.absent: dict[int, tuple[dict[str, Any], list[str]]] = {}
        self.weak: list[tuple[dict[str, Any], str, Callable[[], Any]]] = []
        self.cells: list[tuple[CellType, object]] = []
        self.weak_cells: list[tuple[Callable[[], Any], int, Callable[[], Any]]] = []
        self._seen: set[tuple[int, str]] = set()

    def name(self, space: dict[str, Any], name: str, value: Any) -> None:
        if (id(space), name) in self._seen:
            return
        self._seen.add((id(space), name))
        if value is ABSENT:
            self.absent.setdefault(id(space), (space, []))[1].append(name)
        elif isinstance(value, (FunctionType, type)):
            self.weak.append((space, name, hold(value)))
        else:
            self.guards.append((space, name, value))

    def closure(self, definition: Definition) -> None:
        fn = definition.subject()
        if type(fn) is not FunctionType or not fn.__closure__:
            return
        for at, cell in enumerate(fn.__closure__):
            content = cell_content(cell)
            if not content:
                self.cells.append((cell, ABSENT))
            elif type(content[0]) in _LEAVES:
                self.cells.append((cell, content[0]))
            else:
                self.weak_cells.append((definition.subject, at, hold(content[0])))


class Builder(Protocol):
    """Writes definitions down."""

    def build(self, definition: Definition) -> None: ...


class Binder(Protocol):
    """Writes bindings down."""

    def find(self, key: str, name: str, value: object) -> Binding: ...
    def give_up(self, key: str, name: str, binding: Binding, error: BaseException) -> Binding: ...


class Closure:
    """Everything that *roots* need, in an order in which it can be sent. Raises what keeps a root from travelling."""

    def __init__(self, builder: Builder, binder: Binder, roots: Iterable[Definition]) -> None:
        self.builder = builder
        self.binder = binder
        self.checks = Checks()
        self.definitions: dict[int, Definition] = {}
        self.bindings: dict[str, tuple[str, Binding]] = {}
        self.failed: dict[int, BaseException] = {}
        self._wanted_by: dict[int, list[tuple[int, str]]] = {}  # definition -> definitions ("") and bindings (key)
        roots = tuple(roots)
        self._follow(roots)
        if self.failed:
            self._spread()
            for root in roots:
                if root.number in self.failed:
                    raise self.failed[root.number]
        needs: dict[int, Need] = {}
        for definition in self.definitions.values():
            if definition.number not in self.failed and definition.built is not None:
                needs[definition.number] = definition.built
        for _, binding in self.bindings.values():
            needs[binding.need[0]] = binding.need
        self.needs = tuple(needs.values())

    def _follow(self, roots: tuple[Definition, ...]) -> None:
        todo = list(roots)
        while todo:
            definition = todo.pop()
            number = definition.number
            if number in self.definitions:
                continue
            self.definitions[number] = definition
            try:
                self.builder.build(definition)
            except Exception as error:
                self.failed[number] = error
                continue
            self.checks.closure(definition)
            for dep in definition.deps:
                self._wanted_by.setdefault(dep.number, []).append((number, ""))
            todo += definition.deps
            for space, key, name in definition.reads:
                value = space.get(name, ABSENT)
                self.checks.name(space, name, value)
                if value is ABSENT or key in self.bindings:
                    continue
                binding = self.binder.find(key, name, value)
                self.bindings[key] = (name, binding)
                for dep in binding.deps:
                    self._wanted_by.setdefault(dep.number, []).append((0, key))
                todo += binding.deps

    def stale(self) -> tuple[set[int], set[str]]:
        """Functions whose code, defaults or closure have changed, and the definitions and bindings that hold them."""
        numbers = {
            number
            for number, definition in self.definitions.items()
            if (subject := definition.subject()) is not None and not definition.holds(subject)
        }
        keys: set[str] = set()
        todo = list(numbers)
        while todo:
            for parent, key in self._wanted_by.get(todo.pop(), ()):
                if key:
                    keys.add(key)
                # A class that travelled stays as it was.
                elif parent not in numbers and not isinstance(self.definitions[parent].subject(), type):
                    numbers.add(parent)
                    todo.append(parent)
        return numbers, keys

    def _spread(self) -> None:
        """What needs something that cannot travel cannot travel either, up to the global that brought it in."""
        todo = list(self.failed)
        while todo:
            number = todo.pop()
            error = self.failed[number]
            for parent, key in self._wanted_by.get(number, ()):
                if key:
                    name, binding = self.bindings[key]
                    if not binding.missing:
                        self.bindings[key] = (name, self.binder.give_up(key, name, binding, error))
                elif parent not in self.failed:
                    self.failed[parent] = error
                    todo.append(parent)
