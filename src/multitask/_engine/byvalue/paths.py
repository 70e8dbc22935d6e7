"""Why something cannot travel: the path to the culprit inside the object, found only after the failure."""

from __future__ import annotations

from collections import deque

from multitask._typing import Any

_NODES = 200_000  # looked at before the search gives up
_SCALARS = (int, float, bool, type(None), str, bytes, complex)


def roots(obj: Any, name: str) -> list[tuple[str, object]]:
    """(path, object) to start from: a payload is named as the caller wrote it, args and kwargs."""
    if name == "args" and type(obj) is tuple and len(obj) >= 2 and type(obj[-1]) is dict and type(obj[-2]) is tuple:
        start: list[tuple[str, object]] = [("args", obj[-2]), ("kwargs", obj[-1])]
        return [("the function", obj[0]), *start] if len(obj) == 3 else start
    return [(name, obj)]


def find_path(starts: list[tuple[str, object]], culprits: list[object]) -> tuple[str, object] | None:
    """The path to the last culprit that can be reached; the later in the list, the closer to the failure."""
    rank = {id(culprit): place for place, culprit in enumerate(culprits)}
    best = -1
    answer = None
    seen: set[int] = set()
    line = deque(starts)
    kept = []  # temporary objects must not give their id to others
    while line and len(seen) < _NODES:
        path, obj = line.popleft()
        if id(obj) in seen:
            continue
        seen.add(id(obj))
        kept.append(obj)
        place = rank.get(id(obj), -1)
        if place > best:
            best, answer = place, (path, obj)
            if best == len(culprits) - 1:
                break
        line.extend(_children(path, obj))
    return answer


def _children(path: str, obj: Any) -> list[tuple[str, object]]:
    try:
        if isinstance(obj, dict):
            found = [(f"{path}[{_short(key)}]", value) for key, value in obj.items()]
            found += [(f"{path} key {_short(key)}", key) for key in obj if not isinstance(key, _SCALARS)]
            return found + _attributes(path, obj)
        if isinstance(obj, (list, tuple, deque)):
            names = getattr(obj, "_fields", None)
            if names and len(names) == len(obj):
                return [(f"{path}.{name}", value) for name, value in zip(names, obj, strict=True)]
            found = [(f"{path}[{at}]", value) for at, value in enumerate(obj) if not isinstance(value, _SCALARS)]
            return found + _attributes(path, obj)
        if isinstance(obj, (set, frozenset)):
            return [(f"{path} item {_short(value)}", value) for value in obj]
        if isinstance(obj, (*_SCALARS, type)):
            return []
        return _attributes(path, obj) + _parts(path, obj)
    except Exception:  # a hostile object hides what it holds
        return []


def _attributes(path: str, obj: Any) -> list[tuple[str, object]]:
    found = []
    try:
        found += [(f"{path}.{name}", value) for name, value in object.__getattribute__(obj, "__dict__").items()]
    except AttributeError:
        pass
    for kind in type(obj).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            try:
                found.append((f"{path}.{name}", getattr(obj, name)))
            except AttributeError:
                pass
    return found


def _parts(path: str, obj: Any) -> list[tuple[str, object]]:
    """What functions, methods and partials hold."""
    found: list[tuple[str, object]] = []
    for name in ("__self__", "__func__", "func", "args", "keywords", "__wrapped__", "__defaults__", "__kwdefaults__"):
        try:
            part = getattr(obj, name, None)
        except Exception:  # a property that raises is not what failed
            continue
        if part is not None:
            found.append((f"{path}.{name}", part))
    closure = getattr(obj, "__closure__", None)
    code = getattr(obj, "__code__", None)
    if isinstance(closure, tuple) and code is not None:
        for name, cell in zip(code.co_freevars, closure, strict=False):
            try:
                found.append((f"{path}'s variable {name!r}", cell.cell_contents))
            except ValueError:
                pass
    return found


def _short(key: object) -> str:
    try:
        text = repr(key)
    except Exception:
        text = f"<{type(key).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def explanation(starts: list[tuple[str, object]], culprits: list[object], error: BaseException) -> Any:
    """The CannotTravel for *error*, which came up while the objects under *starts* were pickled."""
    from multitask.errors import CannotTravel

    found = find_path(starts, culprits) if culprits else None
    path, thing = found or (starts[0][0], starts[0][1])
    kind = type(thing)
    label = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    inner = getattr(error, "path", None)
    if isinstance(error, CannotTravel) and inner:
        why = error.why
        path = inner if found is None else f"{path}: {inner}"
    elif isinstance(error, CannotTravel):
        why = error.what + (f" ({error.why})" if error.why else "")
    else:
        why = f"{type(error).__name__}: {error}"
    if isinstance(error, RecursionError):
        why = "it is nested too deeply (or its __reduce__ never ends)"
    answer = CannotTravel(
        f"{path} cannot go to another process (it is a {label})",
        why=why,
        fix=_advice(error),
    )
    answer.path = path
    answer.__cause__ = error
    return answer


def _advice(error: Any) -> str:
    if getattr(error, "fix", None):  # it says so itself
        return str(error.fix)
    if isinstance(error, RuntimeError) and "through inheritance" in str(error):  # multiprocessing's own locks, queues
        return 'give it as one of the initargs of Pool(start_method="fork"), or use that of a multiprocessing.Manager()'
    return "send what it is made from (a path, an address, the data) and make it in the worker"
