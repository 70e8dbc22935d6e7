"""Taking an object out of its envelope (envelope.py): what a message brings along is found here already, or built.

Any thread; each message that is being opened has tables of its own, found through the thread that opens it.
"""

from __future__ import annotations

import marshal
import os
import sys
import threading
from collections import OrderedDict
from importlib import import_module
from pickle import loads
from types import CellType, FunctionType
from typing import Any
from zlib import crc32

from multitask._engine.byvalue import home
from multitask._engine.byvalue.child import cannot_rebuild
from multitask._engine.byvalue.classes import adopt_class, arrived, birth_of, is_python_class, note_birth
from multitask._engine.byvalue.define import Definitions
from multitask._engine.byvalue.home import ABSENT, homes
from multitask._engine.byvalue.missing import make_missing

MARK = 0x01  # a pickle starts with 0x80
SPACES_KEPT = 1000  # foreign namespaces in one sealer, origins in one reader

Mark = tuple[Any, ...]  # how else an entry may be found: its birth, the script it is from, its name there, its code


def mark_of(subject: Any, script: Mark | None) -> Mark | None:
    """What tells a reader whether it has *subject* already."""
    if type(subject) is FunctionType:
        return birth_of(subject), script, subject.__qualname__, crc32(subject.__code__.co_code)
    if isinstance(subject, type) and is_python_class(subject):
        return birth_of(subject), script, subject.__qualname__, None
    return None


# --- processes that run the same script -----------------------------------------------------------------------------

_lineage = os.urandom(8)  # the same in forked children


def this_script() -> Mark | None:
    """What this process's ``__main__`` is; None in a worker, where nothing was run as such."""
    main = sys.modules.get("__main__")
    if main is None or main is home.made_main:
        return None
    file = getattr(main, "__file__", None)
    return _lineage, os.path.abspath(file) if file else None


def _counterpart(mark: Mark) -> Any:
    """The object of our own ``__main__`` that *mark* describes, or ABSENT."""
    _, theirs, name, code = mark
    ours = this_script() if theirs else None
    if ours is None or not (theirs[0] == ours[0] or (theirs[1] and theirs[1] == ours[1])):
        return ABSENT
    found: Any = sys.modules["__main__"]
    for part in name.split("."):
        found = getattr(found, part, ABSENT)
    if getattr(found, "__qualname__", None) != name or getattr(found, "__module__", None) not in home.MAINS:
        return ABSENT
    if code is not None:
        return found if type(found) is FunctionType and crc32(found.__code__.co_code) == code else ABSENT
    return found if isinstance(found, type) else ABSENT


# --- opening --------------------------------------------------------------------------------------------------------


def open_sealed(data: Any, buffers: Any = ()) -> object:
    """What was sealed. Runs user code. Raises CannotTravel when it cannot be rebuilt here.

    *data* is bytes-like, *buffers* come in their order: writable ones are used as they are, bytes are copied.
    """
    try:
        if data[0] != MARK:
            return loads(data) if not buffers else loads(data, buffers=_writable(buffers))
        space, entries, content = marshal.loads(memoryview(data)[1:])
        openings: Any = homes.get(space)
        if openings is None:
            openings = _openings_for(space)
        opening = _Opening(space, entries)
        openings.stack().append(opening)
        try:
            return loads(content, buffers=_writable(buffers))
        finally:
            openings.stack().pop()
    except Exception as error:
        raise cannot_rebuild("an item", error) from error


def _writable(buffers: Any) -> list[Any]:
    return [bytearray(buffer) if type(buffer) is bytes else buffer for buffer in buffers]


class _Opening:
    """One message on its way out of its envelope: what it brought, what was built of it."""

    def __init__(self, space: int, entries: list[tuple[Any, ...]]) -> None:
        self.space = space
        self._definitions = {entry[0]: entry for entry in entries if entry[1] is None}
        self._bindings = [entry for entry in entries if entry[1] is not None]
        self._objects: dict[int, Any] = {}
        self._cells: dict[int, CellType] = {}
        self._spaces: dict[str, dict[str, Any]] = {}

    def resolve(self, number: int) -> object:
        found = self._objects.get(number, ABSENT)
        if found is not ABSENT:
            return found
        entry = self._definitions.get(number)
        if entry is None:
            raise LookupError(f"definition {number} is not in the message")
        _, _, data, buffers, mark = entry
        if mark is not None:
            found = self._present(mark)
            if found is not ABSENT:
                return self.adopt(number, found)
        made = loads(data, buffers=_writable(buffers))
        if type(made) is FunctionType and mark is not None:
            note_birth(made, mark[0])  # passed on, it is known again where it was born
        return self.adopt(number, made)

    def _present(self, mark: Mark) -> Any:
        found: Any = arrived.get(mark[0], ABSENT)
        if found is ABSENT:
            found = _counterpart(mark)
            if isinstance(found, type):
                found = adopt_class(found, mark[0])
        return found

    def known(self, number: int) -> object:
        return self._objects.get(number, ABSENT)

    def adopt(self, number: int, made: object) -> object:
        return self._objects.setdefault(number, made)

    def cell(self, number: int) -> CellType:
        return self._cells.setdefault(number, CellType())

    def namespace(self, key: str) -> dict[str, Any]:
        if key.startswith("@"):
            return import_module(key[1:]).__dict__
        space = self._spaces.get(key)
        if space is None:
            space = self._spaces[key] = {"__name__": "__main__", "__builtins__": sys.modules["builtins"]}
            self._bind(key, space)
        return space

    def _bind(self, key: str, space: dict[str, Any]) -> None:
        for _, wire_name, data, buffers, _ in self._bindings:
            own, _, name = wire_name.rpartition(".") if wire_name.startswith("#") else ("", "", wire_name)
            if own != key:
                continue
            try:
                space[name] = loads(data, buffers=_writable(buffers))
            except Exception as error:
                space[name] = make_missing(f"global {name!r}", f"{type(error).__name__}: {error}")

    def inherited(self, name: str) -> object:
        raise LookupError(name)


class Openings:
    """The home of one space: what its pickles name is in the message that this thread is opening.

    Where the space is this process's own, its live objects come first.
    """

    def __init__(self, space: int, origin: Definitions | None = None) -> None:
        self._local = threading.local()
        self._origin = origin
        homes[space] = self

    def stack(self) -> list[_Opening]:
        try:
            return self._local.stack  # type: ignore[no-any-return]
        except AttributeError:
            stack: list[_Opening] = []
            self._local.stack = stack
            return stack

    def _top(self) -> _Opening:
        stack = self.stack()
        if not stack:
            raise LookupError("it was taken out of its message")
        return stack[-1]

    def resolve(self, number: int) -> object:
        if self._origin is not None:
            subject = self._origin.subject(number)
            if subject is not None:
                return subject
        return self._top().resolve(number)

    def known(self, number: int) -> object:
        return self._top().known(number)

    def adopt(self, number: int, made: object) -> object:
        return self._top().adopt(number, made)

    def cell(self, number: int) -> CellType:
        return self._top().cell(number)

    def namespace(self, key: str) -> dict[str, Any]:
        return self._top().namespace(key)

    def inherited(self, name: str) -> object:
        return self._top().inherited(name)


_origins: OrderedDict[int, Openings] = OrderedDict()
_origins_lock = threading.RLock()  # what is dropped in here may have a finalizer that opens something


def _openings_for(space: int) -> Openings:
    with _origins_lock:
        openings = _origins.get(space)
        if openings is None:
            openings = _origins.setdefault(space, Openings(space))
            if len(_origins) > SPACES_KEPT:
                _origins.popitem(last=False)
    return openings


def _in_forked_child() -> None:
    global _origins_lock
    _origins_lock = threading.RLock()


def keep(space: int, openings: Openings) -> None:
    """Go on knowing what was sealed under *space*, after a fork."""
    _origins[space] = openings


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
