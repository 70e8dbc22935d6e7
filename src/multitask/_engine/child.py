"""What runs inside a worker process: get ready, run calls until told to stop, end.

    start method ──► main(spec, fds) ──► decoder, memory limit, initializer ──► HELLO ──► serve ──► exit code

Owner: the worker's main thread. Rule: whatever a call does (raises, exits, returns what cannot be pickled) is the
outcome of that call and not of the worker; only the initializer's failure is the worker's.
Few imports: each of them is paid at the start of every worker.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from multitask._engine import clock, family, notes
from multitask._engine.core import CALL, CHUNK
from multitask._engine.wire import Decoder, Parcel
from multitask._typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from multitask._engine.byvalue.snapshot import Snapshot
    from multitask._engine.channels.pipe import ChildPipe

RING, PIPE = "ring", "pipe"
LOOK_SECONDS = 0.1  # how old the published figure of resident memory may be


class Inherited(NamedTuple):
    """What a forked worker has from its parent without any pickling."""

    snapshot: Snapshot | None  # of the encoder
    initializer: tuple[Any, Sequence[Any]] | None  # with its arguments, which may hold multiprocessing's own locks


class End(Protocol):
    """The worker's end of a lane, whatever it is made of."""

    def note(self, text: bytes, /) -> None: ...
    def hello(self) -> None: ...
    def broken(self, parcel: Parcel, /) -> None: ...
    def serve(self, decoder: Decoder, max_tasks: int, max_memory: int, /) -> str: ...


def main(spec: dict[str, Any], fds: Sequence[int], inherited: Inherited | None) -> int:
    """Serve the pool that started this process; returns the exit code."""
    family.join(spec["family"])
    decoder = Decoder(spec["space"], None if inherited is None else inherited.snapshot)
    decoder.install()
    _introduce(spec)
    end = _open(spec, fds)
    notes.sink = end.note
    _print_whole_lines()
    max_memory = spec["max_memory"] or 0
    try:
        if max_memory:
            _limit_memory(max_memory)
        if inherited is not None and inherited.initializer is not None:
            initializer, initargs = inherited.initializer
            initializer(*initargs)
        elif spec["initializer"] is not None:
            _initialize(decoder, *spec["initializer"])
    except BaseException as error:
        end.broken(decoder.dump_error(error))
        return 1
    end.hello()
    # Needed to report errors, also when no descriptor is left to load it with; while the parent sends the first call.
    importlib.import_module("multitask._engine.byvalue.report")
    end.serve(decoder, spec["maxtasksperchild"] or 0, max_memory)
    return 0


def _open(spec: dict[str, Any], fds: Sequence[int]) -> End:
    if spec["channel"] == RING:
        from multitask._native import core

        if spec.get("kill_point"):
            core.set_kill_point(*spec["kill_point"])
        end: Any = core.WorkerEnd(*fds, senders=spec["senders"])
        os.register_at_fork(after_in_child=end.disown)
        return end  # type: ignore[no-any-return]
    from multitask._engine.channels.pipe import ChildPipe

    end = PipeEnd(ChildPipe(fds))
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: setattr(end, "forked", True))
    return end  # type: ignore[no-any-return]


def _initialize(decoder: Decoder, parcel: Parcel, needs: Sequence[Any]) -> None:
    for need in needs:
        decoder.define(*need)
    call: Any = decoder.load(parcel)
    initializer, initargs = call
    initializer(*initargs)


def _introduce(spec: dict[str, Any]) -> None:
    """Tell multiprocessing who this process is: its name, and the key to the managers of its parent."""
    from multiprocessing import process  # loaded already

    me = process.current_process()
    me.name = spec["name"]
    me.authkey = spec["authkey"]


def _print_whole_lines() -> None:
    # A worker lives long and may be killed: what it printed must not sit in its buffer until then.
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        try:
            stream.reconfigure(line_buffering=True)
        except (AttributeError, ValueError, OSError):
            if stream is not None:
                _to_descriptor(name)


def _to_descriptor(name: str) -> None:
    # A forked worker has the parent's stand-in (a notebook's, a StringIO), which would keep here what is printed here.
    number = 1 if name == "stdout" else 2
    try:
        stream = open(number, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
    except OSError:
        return
    setattr(sys, name, stream)


def _limit_memory(max_memory: int) -> None:
    """Let allocations that would take this process beyond *max_memory* bytes fail with MemoryError.

    The limit is one of private writable memory, touched or not (setrlimit(2), RLIMIT_DATA). A forked worker has
    inherited much of that from its parent, so what counts is what it may add to what it occupies now.
    """
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resident, data = _memory()
    limit = data + max(0, max_memory - resident)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _leave_forked() -> None:
    """A child that a task forked has come back here: its parent is the worker, so it ends as a script would."""
    streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            pass
    os._exit(0)


def resident_bytes() -> int:
    """What this process occupies of the machine's memory now; 0 where that cannot be found out."""
    return _memory()[0]


def _memory() -> tuple[int, int]:
    # (resident, private and writable) in bytes; proc(5), statm
    try:
        with open("/proc/self/statm", "rb") as statm:
            pages = statm.read().split()
        size = os.sysconf("SC_PAGE_SIZE")
        return int(pages[1]) * size, int(pages[5]) * size
    except (OSError, ValueError, IndexError):
        return 0, 0


class PipeEnd:
    """Serves over a pipe: one call at a time, as they come."""

    def __init__(self, pipe: ChildPipe) -> None:
        from multitask._engine.channels import kinds

        self._pipe = pipe
        self._kinds = kinds
        self.note = pipe.note
        self._resident = self._look()  # after the last task, where max_memory is set
        self._growth = 0  # the most that one task has added to it
        self._starved = False  # a task ran out of memory
        self.forked = False  # a task forked, and this is its child: the pipe is not ours

    def hello(self) -> None:
        """Report for work."""
        self._pipe.send(self._kinds.HELLO)

    def broken(self, parcel: Parcel) -> None:
        """Report that the initializer failed."""
        self._pipe.send(self._kinds.BROKEN, parcel)

    def serve(self, decoder: Decoder, max_tasks: int, max_memory: int) -> str:
        """Run calls until told to stop; returns why it ended."""
        kinds, pipe = self._kinds, self._pipe
        tasks = 0
        while True:
            try:
                message = pipe.receive()
            except EOFError:
                return "parent gone"
            kind = message[0]
            if kind == kinds.STOP:
                return "stop"
            if kind == kinds.DEFINE:
                decoder.define(*message[1:])
            elif kind == kinds.FORGET:
                decoder.forget(message[1])
            elif kind == kinds.CALL:
                answer = self._call(decoder, *message[1:])
                if self.forked:
                    _leave_forked()
                pipe.send(*answer)
                if clock.monotonic() - self._looked > LOOK_SECONDS:
                    self._look()
                tasks += 1
                reason = None
                if max_memory and self._is_fat(max_memory):
                    reason = "max_memory"
                elif tasks == max_tasks:
                    reason = "maxtasksperchild"
                if reason is not None:
                    pipe.send(kinds.BYE, reason)
                    return reason

    def _look(self) -> int:
        """Resident bytes of this process now; published for the parent."""
        self._looked = clock.monotonic()
        resident = resident_bytes()
        self._pipe.occupies(resident)
        return resident

    def _is_fat(self, most: int) -> bool:
        # Would another task like the greediest so far go beyond it? Then this worker has to go first.
        resident = self._look()
        if self._resident:
            self._growth = max(self._growth, resident - self._resident)
        self._resident = resident
        return self._starved or resident + self._growth > most

    def _call(self, decoder: Decoder, number: int, mode: int, parcel: Parcel) -> tuple[int, Parcel]:
        try:
            call: Any = decoder.load(parcel)
            fn, args, kwargs = (decoder.function(number), *call) if number else call
            return self._kinds.OK, decoder.dump(self._run(mode, fn, args, kwargs))
        except BaseException as error:
            self._starved = self._starved or isinstance(error, MemoryError)
            return self._kinds.ERROR, decoder.dump_error(error)

    def _run(self, mode: int, fn: Any, args: Any, kwargs: Any) -> Any:
        if mode == CALL:
            return fn(*args, **kwargs)
        out = []
        for index, item in enumerate(args[0]):
            self._pipe.item(index)
            out.append(fn(item) if mode == CHUNK else fn(*item))
        return out
