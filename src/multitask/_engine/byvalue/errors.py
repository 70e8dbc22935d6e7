"""Errors that cross processes: the real class when it can be rebuilt as it was, a faithful stand-in otherwise.

An exception is rebuilt without calling its ``__init__``: made bare, then given its args, attributes and
notes. So constructors with two required arguments, or with effects, do no harm.
"""

from __future__ import annotations

import os
import traceback
from types import BuiltinFunctionType, MethodDescriptorType, TracebackType

from multitask._typing import Any
from multitask.errors import CannotTravel, MultitaskError

_HERE = os.path.dirname(__file__) + os.sep
_HEAP = 1 << 9


# --- any exception inside a pickle ----------------------------------------------------------------------------------


def reduce_error(error: BaseException) -> Any:
    """How an exception is pickled: as its class wants, if it says so, else bare class, args and attributes."""
    return NotImplemented if reduces_itself(error) else bare_error(error)


def reduces_itself(error: BaseException) -> bool:
    kind = type(error)
    return not (
        isinstance(kind.__reduce__, (MethodDescriptorType, BuiltinFunctionType))
        and isinstance(kind.__reduce_ex__, (MethodDescriptorType, BuiltinFunctionType))
    )


def bare_error(error: BaseException) -> tuple[Any, ...]:
    native: Any = next(kind for kind in type(error).__mro__ if not kind.__flags__ & _HEAP)
    parts: Any = native.__reduce__(error)
    args = parts[1]
    state = dict(parts[2]) if len(parts) > 2 and parts[2] else {}
    for kind in type(error).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(error, name):
                state[name] = getattr(error, name)
    return make_error, (type(error), args), state or None, None, None, fill_error


def make_error(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    native: Any = next(base for base in kind.__mro__ if not base.__flags__ & _HEAP)
    try:
        error = kind.__new__(kind, *args)
    except TypeError:  # a __new__ with arguments of its own
        error = native.__new__(kind, *args)
    native.__init__(error, *args)
    return error


def fill_error(error: BaseException, state: dict[str, Any]) -> None:
    for name, value in state.items():
        # Past a __setattr__ that refuses, as that of a frozen dataclass does.
        object.__setattr__(error, name, value)


# --- the stand-in ---------------------------------------------------------------------------------------------------


class RemoteError(MultitaskError):
    """Stands for an exception that could not be rebuilt here as it was.

    ``type_name`` is the name of the original class; ``lost`` names what of it could not travel. Where the
    class itself is known here, the stand-in is also an instance of it, so that ``except`` finds it.
    """

    type_name: str = ""
    lost: dict[str, str] = {}

    def __str__(self) -> str:
        return self.what

    def __reduce__(self) -> tuple[Any, ...]:
        return _stand_in_again, (self.what, self.type_name, self.lost, self.__dict__.get("_kind"), self._kept())

    def _kept(self) -> dict[str, Any]:
        own = ("what", "why", "fix", "type_name", "lost", "_kind")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __getattr__(self, name: str) -> Any:
        why = self.__dict__.get("lost", {}).get(name)
        if why is None:
            raise AttributeError(f"{self.__dict__.get('type_name', 'error')!r} object has no attribute {name!r}")
        error = CannotTravel(f"attribute {name!r} of the error did not travel from the worker", why=why)
        error.path = name
        raise error


def stand_in(
    type_name: str, message: str, lost: dict[str, str], kind: type[BaseException] | None, kept: dict[str, Any]
) -> RemoteError:
    return _stand_in_again(f"{type_name}: {message}" if message else type_name, type_name, lost, kind, kept)


def _stand_in_again(
    what: str, type_name: str, lost: dict[str, str], kind: type[BaseException] | None, kept: dict[str, Any]
) -> RemoteError:
    made: type[RemoteError] = RemoteError
    if kind is not None and issubclass(kind, Exception) and not issubclass(kind, BaseExceptionGroup):
        try:
            made = type(f"Remote{kind.__name__}", (RemoteError, kind), {"__module__": __name__})
            error = made.__new__(made, what)
        except Exception:  # layouts that do not go together, a class that cannot be subclassed
            kind, made = None, RemoteError
    if made is RemoteError:
        error = RemoteError(what)
    vars(BaseException)["args"].__set__(error, (what,))
    error.__dict__.update({"why": None, "fix": None, **kept})
    error.__dict__.update(what=what, type_name=type_name, lost=lost, _kind=kind)
    return error


# --- texts ----------------------------------------------------------------------------------------------------------


def name_of(error: BaseException) -> str:
    kind = type(error)
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return "<its str() failed>"


def full_traceback(error: BaseException) -> str:
    """The traceback with causes and notes, without the frames of the worker's own loop."""
    try:
        start = _users_part(error.__traceback__)
        return "".join(traceback.format_exception(type(error), error, start)).rstrip("\n")
    except BaseException:  # hostile __str__, __notes__, source files
        return f"{name_of(error)}: {text_of(error)}"


def _users_part(start: TracebackType | None) -> TracebackType | None:
    at = start
    while at is not None and at.tb_frame.f_code.co_filename.startswith(_HERE):
        at = at.tb_next
    return at or start


def with_source_lines(text: str) -> str:
    """Add the lines of source that the worker could not see: those of notebook cells live in this process."""
    import linecache
    import re

    lines = text.split("\n")
    told: list[str] = []
    for at, line in enumerate(lines):
        told.append(line)
        place = re.match(r'^(\W*)File "(.+)", line (\d+), in ', line)
        after = lines[at + 1] if at + 1 < len(lines) else ""
        if place and not after.startswith(place[1] + "  "):
            source = linecache.getline(place[2], int(place[3])).strip()
            if source:
                told.append(f"{place[1]}  {source}")
    return "\n".join(told)
