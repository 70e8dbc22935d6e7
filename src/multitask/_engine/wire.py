"""How functions, arguments, results and errors are written for the other process, and read there.

The Encoder lives in the process that submits (one per pool, any thread), the Decoder in each worker (its
task loop only), Known on the parent's side of each worker. The protocol between them stands in WIRE.md.

Rule: no user code (``__reduce__``, ``__getstate__``, metaclasses) runs while a lock of this module is held.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pickle import dumps
from types import FunctionType

from multitask._engine.byvalue.child import Decoder, cannot_rebuild, loads, starved
from multitask._engine.byvalue.define import Definitions
from multitask._engine.byvalue.graph import Definition, Fleeting, FunctionRef, Need, Parcel
from multitask._engine.byvalue.home import ABSENT, PROTOCOL, homes, importable, is_plain_builtin
from multitask._engine.byvalue.paths import explanation, roots
from multitask._engine.byvalue.pickling import DESK_BYTES, Desk, is_plain, names_main
from multitask._engine.byvalue.reducers import CACHED_TYPE
from multitask._typing import Any

__all__ = ["ABSENT", "Decoder", "Encoder", "Fleeting", "FunctionRef", "Known", "Need", "Parcel", "as_bytes"]


def as_bytes(parcel: Any) -> Any:
    """*parcel* with copies of its buffers, to go inside a pickle."""
    return type(parcel)(bytes(parcel.data), tuple(bytes(buffer) for buffer in parcel.buffers))


_new = tuple.__new__  # a NamedTuple's own constructor costs 0.2 µs


class Known:
    """What one worker has: its definitions, and which value of each global was bound there last."""

    __slots__ = ("_bound", "_definitions", "_last")

    def __init__(self) -> None:
        self._definitions: set[int] = set()
        self._bound: dict[str, int] = {}
        self._last: object = None

    def missing(self, needs: tuple[Need, ...], own: bool = False) -> list[Need]:
        """The needs to send before a task that has them; they count as sent from here on.

        *own*: no other task has these very ones. They are not kept.
        """
        if needs is self._last:
            return []
        self._last = None if own else needs
        out = []
        for need in needs:
            number, name, content = need
            if type(content) is Fleeting:
                self._last = None
            if name is None:
                if number in self._definitions:
                    continue
                self._definitions.add(number)
            else:
                if self._bound.get(name) == number:
                    continue
                self._bound[name] = number
            out.append(need)
        return out

    def forget(self, ids: Iterable[int]) -> list[int]:
        """Those of *ids* that the worker has, and no longer will."""
        ours = [number for number in ids if number in self._definitions]
        self._definitions.difference_update(ours)
        return ours


class Encoder:
    """Writes functions and arguments for the workers of one pool, and reads their results.

    ``snapshot`` is ``dict(__main__.__dict__)`` as it is when the workers are forked: what is in there and
    unchanged goes by reference. Any thread may use it.
    """

    def __init__(self, snapshot: Mapping[str, object] | None = None) -> None:
        self.space = int.from_bytes(os.urandom(7), "little")
        self.definitions = Definitions(self.space, snapshot)
        self._by_object = self.definitions.by_object
        self._local = threading.local()
        homes[self.space] = self.definitions

    @property
    def note(self) -> Callable[[str], None]:
        """Called with a line for the user, for example on a big global; prints to stderr unless set."""
        return self.definitions.bindings.note

    @note.setter
    def note(self, call: Callable[[str], None]) -> None:
        self.definitions.bindings.note = call

    def function(self, fn: Any) -> FunctionRef | None:
        """The reference under which tasks call *fn*; None: it has to travel inside the payload. Never raises."""
        definition = self._by_object.get(id(fn))
        if definition is not None:
            ref = definition.ref
            if ref is not None and ref.subject() is fn and ref.valid():
                return ref
        if type(fn) is not FunctionType:
            # A class that travels by value has no code to look at, so it is looked at in each payload.
            known = isinstance(fn, type) or type(fn) is CACHED_TYPE or is_plain_builtin(fn)
            if not known or not importable(fn):
                return None
        try:
            return self.definitions.ref(self.definitions.define(fn))
        except Exception:  # dump() of the payload that holds it tells why
            return None

    def dump(self, obj: object) -> tuple[Parcel, tuple[Need, ...]]:
        """*obj* as a parcel, and what a worker needs before it can read it. Raises CannotTravel with the path."""
        if is_plain(obj):
            return _new(Parcel, (dumps(obj, PROTOCOL), ())), ()
        local = self._local
        desk = getattr(local, "desk", None) or Desk(self.definitions)
        local.desk = None  # a dump inside of this one takes another
        try:
            desk.pickler.dump(obj)
        except MemoryError as error:
            raise starved(error, "the arguments were pickled") from None
        except Exception:
            return self._dump_again(obj)
        data = desk.file.getvalue()
        needs: tuple[Need, ...] = ()
        if names_main(data) and self.definitions.snapshot is None:
            return self._dump_again(obj)
        if desk.found:
            # Until here the pickler keeps alive what only __reduce__ methods have made.
            needs = self._needs(obj, desk.found)
        parcel = _new(Parcel, (data, tuple(desk.buffers)))
        if len(data) < DESK_BYTES:
            desk.clear()
            local.desk = desk
        return parcel, needs

    def _dump_again(self, obj: object) -> tuple[Parcel, tuple[Need, ...]]:
        """After a failure: with the reducers for exotic types, and with witnesses to what fails."""
        data, buffers, found, _pickler = self.definitions.pickled(obj, "args")
        return Parcel(data, buffers), self._needs(obj, found) if found else ()

    def _needs(self, obj: object, found: list[Definition]) -> tuple[Need, ...]:
        try:
            return self.definitions.needs(found)
        except MemoryError as error:
            raise starved(error, "what the arguments refer to was pickled") from None
        except Exception as error:
            raise explanation(roots(obj, "args"), [one.subject() for one in found], error) from error

    def load(self, parcel: Parcel) -> object:
        """The result in *parcel*; runs user code. Raises CannotTravel when it cannot be rebuilt."""
        try:
            return loads(parcel)
        except MemoryError as error:
            raise starved(error, "the result was rebuilt") from None
        except Exception as error:
            raise cannot_rebuild("the result", error) from error

    def load_error(self, parcel: Parcel) -> BaseException:
        """The worker's error, its traceback there chained as the cause. Never raises."""
        from multitask._engine.byvalue.report import read_error

        return read_error(parcel)

    def take_dead(self) -> list[int]:
        """Numbers that no task and no live function refers to any more: workers may forget them."""
        self.definitions.sweep()
        dead: list[int] = []
        line = self.definitions.dead
        while line:
            dead.append(line.popleft())
        return dead
