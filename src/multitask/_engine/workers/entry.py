"""The first steps of a worker, the same under every start method, and its last ones.

A worker never returns into the code that started it: ``run`` ends by ``os._exit``. Nothing of the user's
process goes on in it: no signal handler, no atexit handler, no half-filled output buffer, no terminal input.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import atexit
import importlib
import io
import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence

from multitask import _native
from multitask._engine.workers import lifeline
from multitask._typing import Any, NoReturn

MARKER = "MULTITASK_WORKER"
DEFAULT_TARGET = "multitask._engine.child:main"

_PR_SET_CHILD_SUBREAPER = 36
_prctl: Callable[..., int] | None = None
_retired_streams: list[object] = []  # never finalised: that would write their inherited content once more


def isolate(lifeline_fd: int | None, **arming: int) -> None:
    """Cut this process loose from the terminal and the signals of its parent, and tie it to the parent's life.

    Without a lifeline it outlives its parent.
    """
    lead_a_group()
    if lifeline_fd is None:
        lifeline.disarm()
    else:
        lifeline.arm(lifeline_fd, **arming)
    adopt_orphans()
    calm_signals()
    fresh_streams()


def mark(marker: str) -> None:
    """Put *marker* into the environment, where processes that this one starts inherit it.

    A worker inside a worker adds its own behind a slash.
    """
    outer = os.environ.get(MARKER)
    os.environ[MARKER] = f"{outer}/{marker}" if outer else marker


def lead_a_group() -> None:
    """Make this process the leader of a group of its own (the parent does the same from its side)."""
    if hasattr(os, "setpgid"):
        try:
            os.setpgid(0, 0)
        except PermissionError:  # it leads a session, and so a group, already
            pass


def prepare() -> None:
    """Load what a forked child needs, so that not each of them has to."""
    global _prctl
    if _prctl is None and sys.platform == "linux" and not _native.available:
        try:
            import ctypes

            _prctl = ctypes.CDLL(None).prctl
        except (ImportError, OSError, AttributeError):
            return


def adopt_orphans() -> bool:
    """Become the parent of descendants whose own parent ended, so that they are found when the tree is killed."""
    if _native.available:
        return _native.core.adopt_orphans()
    prepare()
    return _prctl is not None and _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def calm_signals() -> None:
    """Ignore Ctrl-C and terminal output stops; give back their default action to signals that user code handled."""
    signal.set_wakeup_fd(-1)  # a forked child would wake the event loop of its parent
    # The functions beneath those of signal.py, which make an enum of each number: 0.4 ms in all.
    for number in _signal.valid_signals():
        if callable(_signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take exit codes away from subprocess
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGTTOU"):
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        _signal.pthread_sigmask(signal.SIG_SETMASK, ())


def fresh_streams() -> None:
    """Read from nowhere; write to descriptors 1 and 2 through new buffers.

    The inherited buffers may hold text that the parent writes as well, and their locks may be held by a thread
    that does not exist here. Streams that the user put in place of the real ones stay.
    """
    nowhere = os.open(os.devnull, os.O_RDONLY)
    if nowhere:  # else 0 was closed, and now it is this one
        os.dup2(nowhere, 0)
        os.close(nowhere)
    else:
        os.set_inheritable(0, True)
    _retired_streams.extend((sys.stdin, sys.__stdin__))
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    for name, fd in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, f"__{name}__")
        if not isinstance(old, io.TextIOWrapper):
            continue
        new = _reopen(old, fd, lines=name == "stderr")
        if new is None:
            continue
        _retired_streams.append(old)
        if getattr(sys, name) is old:
            setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def _reopen(old: io.TextIOWrapper, fd: int, *, lines: bool) -> io.TextIOWrapper | None:
    try:
        raw = io.FileIO(fd, "wb", closefd=False)
        buffered: Any = raw if old.write_through and not lines else io.BufferedWriter(raw)
        stream = io.TextIOWrapper(
            buffered, old.encoding, old.errors, None, lines or os.isatty(fd), write_through=old.write_through
        )
    except OSError:  # closed, or not for writing
        return None
    stream.mode = "w"  # type: ignore[misc]
    return stream


def run(spec: dict[str, Any] | bytes, fds: Sequence[int], inherited: object | None) -> NoReturn:
    """Call the worker's main function and end the process with what it returns; never returns, never raises.

    *spec* may be pickled; what fails to come out of the pickle is reported like an error of the worker.
    """
    code = 1
    try:
        if isinstance(spec, bytes):
            spec = pickle.loads(spec)
        assert isinstance(spec, dict)
        module, _, name = spec.get("target", DEFAULT_TARGET).partition(":")
        main = getattr(importlib.import_module(module), name)
        result = main(spec, list(fds), inherited)
        code = result if isinstance(result, int) else 0
    except SystemExit as ending:
        code = _code_of(ending)
    except BaseException:
        complain()
    finally:
        end(code)


def _code_of(ending: SystemExit) -> int:
    if ending.code is None:
        return 0
    if isinstance(ending.code, int):
        return ending.code & 0xFF
    print(ending.code, file=sys.stderr)
    return 1


def complain() -> None:
    """Print the current exception to descriptor 2, whatever became of sys.stderr."""
    try:
        import traceback

        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    except Exception:  # nobody left to tell
        pass


def end(code: int) -> NoReturn:
    """Run the exit handlers that were registered in this process, flush, and end."""
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException:
        complain()
    finally:
        os._exit(code)
