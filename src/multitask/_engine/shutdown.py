"""The end of the process: unfinished work is finished, and what cannot be is said.

A script that ends with pools at work waits for them (after a second it says so on a terminal, and the first Ctrl-C
stops them); after an uncaught exception the work is stopped and counted. Callbacks are waited for like work, and
failures that nobody asked for are shown in every case. In a child of ``os.fork()`` the parent's
pools are nobody's.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from multitask._engine.clock import monotonic

if TYPE_CHECKING:
    from multitask._engine.engine import Engine

SAY_AFTER_SECONDS = 1.0
STOP_SECONDS = 1.5  # for workers that were killed, and for threads that end by themselves
CALLBACK_SECONDS = 1.0  # for callbacks of work that was stopped

_engines: dict[int, Engine] = {}  # those at work, or whose failures nobody has shown; keeps them alive
_prepared = False


def register(engine: Engine) -> None:
    """Have *engine* finished before the process ends."""
    global _prepared
    if not _prepared:
        _prepared = True
        atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_in_forked_child)
    _engines[id(engine)] = engine


def forget(engine: Engine) -> None:
    """*engine* has ended, its callbacks have run and its failures were shown."""
    _engines.pop(id(engine), None)


def _in_forked_child() -> None:
    engines = list(_engines.values())
    _engines.clear()
    for engine in engines:
        engine.disown()


def _at_exit() -> None:
    engines = list(_engines.values())
    if not engines:
        return
    try:
        failure = _failure()
        if failure is None:
            for engine in engines:
                engine.finish()
            _wait(engines)
        else:
            _stop(engines, "Ctrl-C" if isinstance(failure, KeyboardInterrupt) else "the script ended with an error")
        _report(engines)
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt):
            _stop(engines, "Ctrl-C")
            _report(engines)


def _failure() -> BaseException | None:
    """The uncaught exception that ended the script. At a prompt it is one of many that the user has seen."""
    if sys.flags.interactive or hasattr(sys, "ps1"):
        return None
    return getattr(sys, "last_value", None)


def _wait(engines: list[Engine]) -> None:
    say_at = monotonic() + SAY_AFTER_SECONDS
    said = False
    for wait in (*(engine.join for engine in engines), *(engine.callbacks.drain for engine in engines)):
        if wait(max(0.0, say_at - monotonic())):
            continue
        if not said and _on_terminal():
            _say(f"multitask: waiting for {_unfinished(engines)}; Ctrl-C stops")
        said = True
        wait(None)


def _unfinished(engines: list[Engine]) -> str:
    left = sum(engine.core.unfinished for engine in engines)
    if not left:
        return "callbacks" if all(engine.join(0) for engine in engines) else "the workers to end"
    names = list(dict.fromkeys(task.name for engine in engines for task in engine.core.pending()))
    return f"{left} unfinished task{'s' * (left != 1)} ({', '.join(names[:3])}{', …' * (len(names) > 3)})"


def _stop(engines: list[Engine], why: str) -> None:
    abandoned = sum(engine.core.unfinished for engine in engines)
    for engine in engines:
        engine.terminate()
    end = monotonic() + STOP_SECONDS
    for engine in engines:
        engine.join(max(0.0, end - monotonic()))
    if abandoned:
        _say(f"multitask: {abandoned} unfinished task{'s' * (abandoned != 1)} abandoned ({why})")


def _report(engines: list[Engine]) -> None:
    end = monotonic() + CALLBACK_SECONDS
    for engine in engines:
        engine.callbacks.drain(max(0.0, end - monotonic()))
        engine.report()


def _on_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except (ValueError, OSError):
        return False


def _say(text: str) -> None:
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)
