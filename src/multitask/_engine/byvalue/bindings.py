"""The globals that by-value functions read: for each name the value it has, written down once.

Any thread may come here; the lock guards the table only.
"""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable

from multitask._engine.byvalue.graph import Binding, Definition, Parcel
from multitask._engine.byvalue.home import PROTOCOL
from multitask._engine.byvalue.missing import make_missing
from multitask._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multitask._engine.byvalue.define import Definitions

BIG_BYTES = 10 * 1024 * 1024


def _to_stderr(text: str) -> None:
    if sys.stderr is not None:
        print(text, file=sys.stderr)


class Bindings:
    """The latest binding of each global, by its key on the wire."""

    def __init__(self, definitions: Definitions) -> None:
        self.note: Callable[[str], None] = _to_stderr
        self._definitions = definitions
        self._lock = threading.RLock()  # a finalizer may submit while we hold it
        self._values: dict[str, Binding] = {}
        self._noted: set[str] = set()

    def find(self, key: str, name: str, value: object) -> Binding:
        """The binding of global *name* to *value*; a stand-in for the value where it cannot travel."""
        known = self._values.get(key)
        if known is not None and known.value is value:
            return known
        snapshot = self._definitions.snapshot
        if snapshot is not None and snapshot.holds(key, value):
            deps = (self._definitions.define(value),) if snapshot.name(value) is not None else ()
            return self._bind(key, value, Parcel(self._definitions.by_name(key)), deps, False)
        try:
            data, buffers, found, _ = self._definitions.pickled(value, f"global {name!r}")
        except Exception as error:
            return self._bind_missing(key, name, value, error)
        size = len(data) + sum([buffer.nbytes for buffer in buffers])
        if size > BIG_BYTES and name not in self._noted:
            self._noted.add(name)
            self.note(
                f"multitask: the global {name!r} ({size / 1e6:.0f} MB) is carried to each worker once; "
                "changes made to it in place are not seen there"
            )
        return self._bind(key, value, Parcel(data, buffers), tuple(found), False)

    def give_up(self, key: str, name: str, binding: Binding, error: BaseException) -> Binding:
        """Bind a stand-in for a global that needs something which cannot travel."""
        return self._bind_missing(key, name, binding.value, error)

    def _bind_missing(self, key: str, name: str, value: object, error: BaseException) -> Binding:
        what = getattr(error, "what", None) or f"{type(error).__name__}: {error}"
        why = getattr(error, "why", None)
        missing = make_missing(f"global {name!r}", f"{what}: {why}" if why else what)
        return self._bind(key, value, Parcel(pickle.dumps(missing, PROTOCOL)), (), True)

    def _bind(self, key: str, value: object, parcel: Parcel, deps: tuple[Definition, ...], missing: bool) -> Binding:
        binding = Binding(value, (self._definitions.new_number(), key, parcel), deps, missing)
        with self._lock:
            old = self._values.get(key)
            self._values[key] = binding
        del old  # outside of the lock: the last reference to a value may be here
        return binding

    def drop(self, key: str) -> None:
        """Have the binding made anew, since something it refers to has changed."""
        with self._lock:
            old = self._values.pop(key, None)
        del old
