"""The end of the process: unfinished work is finished, and what cannot be is said.

A script that ends with pools at work waits for them (after a second it says so on a terminal, and the first Ctrl-C
stops them); after an uncaught exception the work is stopped and counted. In a child of ``os.fork()`` the parent's
pools are nobody's.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING

from multitask._engine.clock import monotonic

if TYPE_CHECKING:
    from multitask._engine.engine import Engine

SAY_AFTER_SECONDS = 1.0
STOP_SECONDS = 3.0

_engines: dict[int, Engine] = {}  # those whose workers are not gone yet; keeps them alive
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
    """*engine* has ended."""
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
    failed = getattr(sys, "last_value", None) is not None and not sys.flags.interactive
    if failed:
        _stop(engines, "the script ended with an error")
        return
    try:
        for engine in engines:
            engine.close()
        _wait(engines)
    except KeyboardInterrupt:
        _stop(engines, "Ctrl-C")
    _report(engines)


def _wait(engines: list[Engine]) -> None:
    say_at = monotonic() + SAY_AFTER_SECONDS
    for engine in engines:
        if engine.join(max(0.0, say_at - monotonic())):
            continue
        if say_at is not None and _on_terminal():
            left = sum(each.core.unfinished for each in engines)
            _say(f"multitask: waiting for {left} unfinished task{'s' * (left != 1)}; Ctrl-C stops")
        engine.join()


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
    from multitask._engine import unread

    for engine in engines:
        engine.callbacks.drain(STOP_SECONDS)
        unread.report(engine.core)


def _on_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except (ValueError, OSError):
        return False


def _say(text: str) -> None:
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)
