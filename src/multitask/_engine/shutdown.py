"""The end of the process: unfinished work is finished, and what cannot be is said.

A script that ends with pools at work waits for them (after a second it says so on a terminal, and the first Ctrl-C
stops them: then the process ends by SIGINT, as after any KeyboardInterrupt that nobody caught); after an uncaught
exception the work is stopped and counted. Callbacks are waited for like work, and failures that nobody asked for are
shown in every case. In a child of ``os.fork()`` the parent's pools are nobody's.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from types import TracebackType
from typing import TYPE_CHECKING

from multitask._engine.clock import monotonic

if TYPE_CHECKING:
    from multitask._typing import Any, Protocol

    class Callbacks(Protocol):
        def ensure(self) -> None: ...
        def drain(self, timeout: float | None = None) -> bool: ...

    class Work(Protocol):
        """What may be unfinished when the process ends: the engine of a pool, a process of the user's."""

        @property
        def core(self) -> Any: ...  # unfinished: how many; pending(): things with a name
        @property
        def callbacks(self) -> Callbacks: ...
        def finish(self) -> None: ...
        def terminate(self) -> None: ...
        def join(self, timeout: float | None = None) -> bool: ...
        def report(self) -> None: ...
        def disown(self) -> None: ...


SAY_AFTER_SECONDS = 1.0
STOP_SECONDS = 1.5  # for workers that were killed, and for threads that end by themselves
CALLBACK_SECONDS = 1.0  # for callbacks of work that was stopped

_engines: dict[int, Work] = {}  # those at work, or whose failures nobody has shown; keeps them alive
_prepared = False


def register(engine: Work) -> None:
    """Have *engine* finished before the process ends."""
    global _prepared
    if not _prepared:
        _prepared = True
        atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_in_forked_child)
    _engines[id(engine)] = engine
    if sys.version_info[:2] == (3, 12):
        # That version starts no thread once the program has begun to end.
        with contextlib.suppress(RuntimeError):
            engine.callbacks.ensure()


def forget(engine: Work) -> None:
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
            _wait_for_unfinished_work(engines)
        else:
            _stop(engines, "Ctrl-C" if isinstance(failure, KeyboardInterrupt) else "the script ended with an error")
        _report(engines)
    except KeyboardInterrupt as interrupt:
        with contextlib.suppress(KeyboardInterrupt):  # a second one: whoever is left dies with this process
            _stop(engines, "Ctrl-C")
            _report(engines)
        _pass_on(interrupt)


def _failure() -> BaseException | None:
    """The uncaught exception that ended the script. At a prompt it is one of many that the user has seen."""
    if sys.flags.interactive or hasattr(sys, "ps1"):
        return None
    return getattr(sys, "last_value", None)


def _wait_for_unfinished_work(engines: list[Work]) -> None:
    say_at = monotonic() + SAY_AFTER_SECONDS
    said = False
    for wait in (*(engine.join for engine in engines), *(engine.callbacks.drain for engine in engines)):
        if wait(max(0.0, say_at - monotonic())):
            continue
        if not said and _on_terminal():
            _say(f"multitask: waiting for {_unfinished(engines)}; Ctrl-C stops")
        said = True
        wait(None)


def _unfinished(engines: list[Work]) -> str:
    left = sum(engine.core.unfinished for engine in engines)
    if not left:
        return "callbacks" if all(engine.join(0) for engine in engines) else "the workers to end"
    names = list(dict.fromkeys(task.name for engine in engines for task in engine.core.pending()))
    return f"{left} unfinished task{'s' * (left != 1)} ({', '.join(names[:3])}{', …' * (len(names) > 3)})"


def _stop(engines: list[Work], why: str) -> None:
    abandoned = sum(engine.core.unfinished for engine in engines)
    for engine in engines:
        engine.terminate()
    end = monotonic() + STOP_SECONDS
    for engine in engines:
        engine.join(max(0.0, end - monotonic()))
    if abandoned:
        _say(f"multitask: {abandoned} unfinished task{'s' * (abandoned != 1)} abandoned ({why})")


def _pass_on(interrupt: KeyboardInterrupt) -> None:
    """Let the user and whoever started this process see that it was interrupted, as the interpreter itself does.

    An exit handler cannot raise: that would be printed, and the exit status would still be that of success. Whoever
    has another handler for the signal (a notebook, an embedding program) has plans of its own.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    with contextlib.suppress(KeyboardInterrupt):
        here = interrupt.__traceback__
        assert here is not None
        # Below this frame lie only our own: how we wait says nothing to the user.
        top = TracebackType(None, here.tb_frame, here.tb_lasti, here.tb_lineno)
        try:
            sys.excepthook(type(interrupt), interrupt.with_traceback(top), top)
        except Exception:  # the user's hook: what counts is how the process ends
            _say("KeyboardInterrupt")
    sys.multitask_last_step = _LastStep()  # type: ignore[attr-defined]


class _LastStep:
    """Ends the process by SIGINT when the interpreter has taken everything else apart.

    It hangs on the module ``sys``, which is cleared last: after all exit handlers, the flushing of the streams and the
    finalizers of everybody else, whatever they are and whether or not the script ended by ``sys.exit``. By then
    the interpreter has given SIGINT its default action back.
    """

    def __init__(self) -> None:
        # Bound here: of this module nothing is left then.
        self._process, self._streams = os.getpid(), (sys.stdout, sys.stderr)
        self._getpid, self._kill, self._number = os.getpid, os.kill, signal.SIGINT.value

    def __del__(self) -> None:
        if self._getpid() != self._process:  # a child that some exit handler forked
            return
        for stream in self._streams:
            try:
                stream.flush()
            except Exception:  # none, closed, or nobody reads it
                pass
        self._kill(self._process, self._number)


def _report(engines: list[Work]) -> None:
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
