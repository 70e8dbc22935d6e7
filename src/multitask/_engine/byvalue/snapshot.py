"""What was in ``__main__`` when the workers were forked: it is there already and travels by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FunctionType

from multitask._engine.byvalue.graph import stamp_of
from multitask._engine.byvalue.home import ABSENT, Namespaces, cell_content, code_facts, importable, main_namespace
from multitask._engine.byvalue.reducers import DEFINED_TYPES
from multitask._typing import Any

Read = tuple[dict[str, Any], str, str]


class Snapshot:
    """Names of the functions and classes of ``__main__`` at the fork. Never changes; read in parent and child."""

    def __init__(self, values: Mapping[str, object], namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._main = main_namespace()
        self.values = dict(values)
        self._names: dict[int, str] = {}
        self._stamps: dict[str, tuple[Any, ...]] = {}
        for name, value in self.values.items():
            self._add(name, value)

    def _add(self, name: str, value: Any) -> None:
        if not _by_value(value):
            return
        if id(value) in self._names:
            return
        if type(value) is FunctionType and not self._shared(value.__globals__):
            return  # what shares its globals but came later would not find the worker's copy of them
        self._names[id(value)] = name
        self._stamps[name] = stamp_of(value)
        if isinstance(value, type):
            for inner, part in value.__dict__.items():
                self._add(f"{name}.{inner}", part)

    def _shared(self, namespace: dict[str, Any]) -> bool:
        return namespace is self._main or self._namespaces.key(namespace).startswith("@")

    def name(self, value: object) -> str | None:
        """The name under which *value*, unchanged, is found in a forked worker."""
        name = self._names.get(id(value))
        if name is None:
            return None
        now, then = stamp_of(value), self._stamps[name]
        same = len(now) == len(then) and all(a is b for a, b in zip(now, then, strict=True))
        return name if same else None

    def holds(self, name: str, value: object) -> bool:
        if self.values.get(name, ABSENT) is not value:
            return False
        return self.name(value) is not None or not _by_value(value)

    def find(self, name: str) -> object:
        first, *parts = name.split(".")
        found = self.values[first]
        for part in parts:
            found = vars(found)[part]
        return found


def _by_value(value: Any) -> bool:
    kind = type(value)
    return (kind is FunctionType or isinstance(value, type) or kind in DEFINED_TYPES) and not importable(value)


def functions_within(subject: Any, seen: set[int] | None = None) -> Iterator[FunctionType]:
    """The by-value functions that make up *subject*: itself, methods of a class, what a closure or wrapper holds."""
    seen = set() if seen is None else seen
    if id(subject) in seen:
        return
    seen.add(id(subject))
    parts: list[Any] = []
    if type(subject) is FunctionType:
        if importable(subject):
            return
        yield subject
        parts += [cell.cell_contents for cell in subject.__closure__ or () if _filled(cell)]
        parts += subject.__defaults__ or ()
        parts += subject.__dict__.values()
    elif isinstance(subject, type):
        if importable(subject):
            return
        parts += [*subject.__bases__, *subject.__dict__.values()]
    elif isinstance(subject, property):
        parts += [subject.fget, subject.fset, subject.fdel]
    elif isinstance(subject, (staticmethod, classmethod)):
        parts.append(subject.__func__)
    elif hasattr(type(subject), "__wrapped__") or "__wrapped__" in getattr(subject, "__dict__", ()):
        parts.append(subject.__wrapped__)
    else:
        return
    for part in parts:
        yield from functions_within(part, seen)


def _filled(cell: Any) -> bool:
    return bool(cell_content(cell))


# These belong to each process's own __main__.
_OWN_NAMES = frozenset({"__name__", "__builtins__", "__spec__", "__loader__", "__package__", "__annotations__"})


def reads_of(fn: FunctionType, key: str) -> tuple[Read, ...]:
    """(dict, name on the wire, name) of the globals that *fn* reads; none where its module is imported there."""
    if key.startswith("@"):
        return ()
    prefix = f"{key}." if key else ""
    names = code_facts(fn.__code__).reads
    return tuple([(fn.__globals__, prefix + name, name) for name in names if name not in _OWN_NAMES])
