"""Checks of what users hand to a pool, made at the door: the error is raised by the call that is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from multitask._engine.core import Options
from multitask._engine.sites import call_name
from multitask.errors import MultitaskError, NotSupported

if TYPE_CHECKING:
    from multitask._engine.engine import Config

KINDS = ("process", "thread", "inline")
LATER_KINDS = ("coroutine", "interpreter", "cluster")
START_METHODS = ("fork", "forkserver", "spawn")


def as_args(fn: object, args: Any, form: str = "apply_async({call}, {args})") -> tuple[Any, ...]:
    """*args* as a tuple; TypeError with the call to write, of this *form*, when it is no sequence of arguments."""
    if isinstance(args, (str, bytes, bytearray)) or not isinstance(args, Iterable):
        raise TypeError(
            f"args must be a tuple, not {type(args).__name__}: write "
            f"{form.format(call=call_name(fn), args=f'({_short(args)},)')} with a comma after the one argument"
        )
    return tuple(args)


def check_call(maker: str, target: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """*args* and *kwargs* of ``Process`` or ``Thread`` (*maker*); TypeError if it cannot be called so."""
    if target is not None and not callable(target):
        raise TypeError(
            f"target must be a callable, not {_short(target)}: write {maker}(target=f, args=(…)), not a call"
        )
    return as_args(target, args, form=f"{maker}(target={{call}}, args={{args}})"), as_kwargs(kwargs or {})


class MadeWithoutInit(MultitaskError, RuntimeError):
    """A subclass has an ``__init__`` that does not call that of its base."""


def check_made(thing: Any, maker: str) -> None:
    """MadeWithoutInit unless ``__init__`` of *maker* has set ``_made``."""
    if not thing._made:
        raise MadeWithoutInit(
            f"{type(thing).__name__}.__init__ has not called {maker}'s",
            fix="write super().__init__() as its first line",
        )


def as_kwargs(kwds: Any) -> dict[str, Any]:
    """*kwds* of ``apply_async`` as a dict."""
    if not isinstance(kwds, Mapping):
        raise TypeError(f"kwds must be a mapping of names to values, not {type(kwds).__name__}: {_short(kwds)}")
    return dict(kwds)


def check_callbacks(callback: Any, error_callback: Any) -> None:
    """TypeError unless both can be called or are None."""
    for name, value in (("callback", callback), ("error_callback", error_callback)):
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be a callable or None, not {_short(value)}")


def as_sequence(iterable: Iterable[Any]) -> Sequence[Any]:
    """*iterable* as something to be sliced; the exact builtin sequences stay what they are (a slice of a range is a
    range, which travels as three numbers)."""
    if type(iterable) in (list, tuple, range, bytes, str):
        return iterable  # type: ignore[return-value]
    return list(iterable)


def chunk_size(chunksize: int | None, items: int, processes: int) -> int:
    """*chunksize*, by default multiprocessing's: four chunks for each worker."""
    if chunksize is None:
        return max(1, -(-items // (processes * 4)))
    if chunksize < 1:
        raise ValueError(f"chunksize must be at least 1, not {chunksize!r}")
    return chunksize


def check_pool(config: Config) -> None:
    """Raise what is wrong with the arguments of ``Pool``."""
    processes, kind, start_method, initializer, _, maxtasksperchild, max_memory, *_ = config
    if not isinstance(processes, int):
        raise TypeError(f"processes must be a whole number, not {_short(processes)}")
    if processes < 1:
        raise ValueError(f"Number of processes must be at least 1, not {processes}")
    if kind in LATER_KINDS:
        raise NotSupported(f"kind={kind!r} is not built yet", fix=f"use one of {', '.join(map(repr, KINDS))}")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, not {kind!r}")
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer must be a callable, not {_short(initializer)}")
    if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild < 1):
        raise ValueError(f"maxtasksperchild must be a positive int or None, not {maxtasksperchild!r}")
    if start_method is not None and start_method not in START_METHODS:
        raise ValueError(f"start_method must be one of {', '.join(START_METHODS)}, not {start_method!r}")
    if max_memory is not None and (not isinstance(max_memory, int) or max_memory < 1):
        raise ValueError(f"max_memory must be a positive number of bytes or None, not {max_memory!r}")
    if kind != "process":
        for name, value in (("start_method", start_method), ("max_memory", max_memory)):
            if value is not None:
                raise NotSupported(
                    f"workers of kind={kind!r} take no {name}", why="they live in this process", fix="kind='process'"
                )


def check_options(options: Options, kind: str) -> None:
    """Raise what is wrong with the values of ``Pool.options``."""
    if options.timeout is not None:
        if not options.timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {options.timeout!r}")
        if kind != "process":
            raise NotSupported(
                f"a task of kind={kind!r} cannot have a timeout",
                why="a thread cannot be stopped while it runs",
                fix="use kind='process', or a timeout on the wait: task.result(timeout=…)",
            )
    if not isinstance(options.retries, int) or options.retries < 0:
        raise ValueError(f"retries must be a number of further tries, 0 or more, not {options.retries!r}")
    if options.backoff < 0:
        raise ValueError(f"backoff must be 0 or more seconds, not {options.backoff!r}")
    if not isinstance(options.priority, (int, float)):
        raise TypeError(f"priority must be a number, not {_short(options.priority)}")
    for name, text in (("name", options.name), ("group", options.group)):
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{name} must be a str, not {_short(text)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
