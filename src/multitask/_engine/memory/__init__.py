"""Memory that several processes see: what Value, Array, Counter and share() are made of.

    store() ── native.py     arenas of cells, robust locks, atomic counters (_native/SHARED.md)
            └─ portable.py   a file for each object, locks on ranges of bytes
    memory.py                large blocks: a file each, mapped once per process
    handles.py               how all of them travel, and who keeps them until they have arrived
    synchronized.py          Value and Array;  counters.py  Counter
    arrays.py, buffers.py, objects.py          what share() returns

Rule: whoever has an object of one of these classes is a *user* of its memory; the memory goes with its last user, in
whatever process, however it ends.
"""

from __future__ import annotations

from types import ModuleType

from multitask import _native


def store() -> ModuleType:
    """The module that makes small shared objects here: ``block(nbytes)``, ``lock()``, ``counter(value)``."""
    if _native.available:
        from multitask._engine.memory import native

        return native
    from multitask._engine.memory import portable

    return portable
