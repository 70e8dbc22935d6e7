"""Finds the function that ``module:function`` names, also in the current folder."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from multitask.errors import MultitaskError


class NoSuchFunction(MultitaskError):
    """What stands before or after the colon was not found."""


def find(spec: str) -> Callable[..., Any]:
    """The function named by *spec*, as in ``math:sqrt`` or ``shapes:Circle.area``; raises NoSuchFunction."""
    module_name, colon, path = spec.partition(":")
    if not (module_name and colon and path):
        raise NoSuchFunction(f"{spec!r} names no function", fix=_with_colon(spec))
    use_current_folder()
    module = _module(module_name)
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            import difflib

            close = difflib.get_close_matches(name, [each for each in dir(found) if not each.startswith("_")], n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"look at what {module_name} has: dir()"
            raise NoSuchFunction(f"{module_name} has no {path!r}", fix=hint)
        found = getattr(found, name)
    if not callable(found):
        raise NoSuchFunction(f"{spec} is a {type(found).__name__}, not a function", fix="name something to call")
    return found  # type: ignore[no-any-return]


def use_current_folder(folder: str | None = None) -> None:
    """Put the current folder first on the module path; also the initializer of workers."""
    here = folder or os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)


def _with_colon(spec: str) -> str:
    if ":" not in spec and "." in spec:
        module, _, name = spec.rpartition(".")
        return f"write a colon before the function: {module}:{name}"
    return "write it as module:function, for example math:sqrt"


def _module(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise NoSuchFunction(f"cannot import {name}: {error}", fix=f"install {error.name}") from error
        fix = "check the name; modules are looked for in the current folder and where Python looks"
        raise NoSuchFunction(f"there is no module {name!r}", fix=fix) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise NoSuchFunction(
            f"cannot import {name}", why=reason, fix=f"`python -c 'import {name}'` shows where"
        ) from error
