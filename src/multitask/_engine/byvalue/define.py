"""The parent's record of what travels by value: every definition and binding, with its number.

Any thread may come here. The lock guards the tables only; pickling (which runs user code) happens outside
of it, and when two threads write the same definition down, the first one counts.
"""

from __future__ import annotations

import itertools
import pickle
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from types import CellType, FunctionType

from multitask._engine import family
from multitask._engine.byvalue import home
from multitask._engine.byvalue.bindings import Bindings
from multitask._engine.byvalue.classes import is_python_class, reduce_class
from multitask._engine.byvalue.graph import (
    CellToken,
    Closure,
    Definition,
    Fleeting,
    FunctionRef,
    Kept,
    Need,
    Token,
)
from multitask._engine.byvalue.handles import Held
from multitask._engine.byvalue.home import ABSENT, PROTOCOL, Namespaces, importable
from multitask._engine.byvalue.missing import make_missing
from multitask._engine.byvalue.paths import explanation, roots
from multitask._engine.byvalue.pickling import ConstantPickler, ValuePickler, names_main, pickled_somehow
from multitask._engine.byvalue.reducers import learn_lazily_imported
from multitask._engine.byvalue.snapshot import Read, Snapshot, functions_within, reads_of
from multitask._typing import Any

_KEPT = 4096
_CLASSES_KEPT = 1000


class Definitions:
    """Numbers and contents of functions, classes and globals of one pool; also the pool's home in this process."""

    keeps = True  # whether what is pickled belongs to a task, with which it ends

    def __init__(self, space: int, snapshot: Mapping[str, object] | None) -> None:
        self.space = space
        learn_lazily_imported()
        self.namespaces = Namespaces()
        self.snapshot = None if snapshot is None else Snapshot(snapshot, self.namespaces)
        self.by_object: dict[int, Definition] = {}
        self.dead: deque[int] = deque()  # numbers that nobody can need any more
        self._lock = threading.RLock()  # a finalizer may submit while we hold it
        self.new_number = itertools.count(1).__next__
        self._by_number: weakref.WeakValueDictionary[int, Definition] = weakref.WeakValueDictionary()
        self._cells: dict[int, weakref.ref[CellToken]] = {}
        self._classes: deque[type] = deque(maxlen=_CLASSES_KEPT)
        self._fallen: deque[int] = deque()  # ids of objects that died
        self._limit = _KEPT
        self.bindings = Bindings(self)

    # --- definitions ------------------------------------------------------------------------------------------------

    def define(self, subject: Any) -> Definition:
        """The definition of *subject* as it is now, with its number; its content may have to be written yet."""
        definition = self.by_object.get(id(subject))
        if definition is not None and definition.holds(subject):
            return definition
        if self._fallen:
            self.sweep()
        made = Definition(self.new_number(), subject, self._fallen)
        with self._lock:
            known = self.by_object.get(id(subject))
            if known is not None and known is not definition:
                return known  # another thread was faster
            self.by_object[id(subject)] = made
            self._by_number[made.number] = made
            if isinstance(subject, type):
                # Instances come back after the last reference here may have gone.
                self._classes.append(subject)
        if len(self.by_object) > self._limit:
            self._evict()
        return made

    def build(self, definition: Definition) -> None:
        """Write the content down, once."""
        if definition.built is not None:
            return
        subject: Any = definition.fresh or definition.subject()
        try:
            data, buffers, found = self._written(definition, subject)
        finally:
            definition.fresh = None
        parcel = Kept(data, buffers)
        parcel.token = token = Token(definition.number, self.dead, tuple(definition.cells))
        with self._lock:
            if definition.built is None:
                definition.deps = tuple(found)
                definition.built = (definition.number, None, parcel)
            else:
                token.number = 0

    def _written(self, definition: Definition, subject: Any) -> tuple[bytes, tuple[Any, ...], list[Definition]]:
        name = None if self.snapshot is None else self.snapshot.name(subject)
        if name is not None:
            within = [reads_of(fn, self.namespaces.key(fn.__globals__)) for fn in functions_within(subject)]
            definition.reads = tuple([read for reads in within for read in reads])
            return self.by_name(name), (), []
        if type(subject) is FunctionType:
            if not importable(subject):
                definition.reads = self._reads(subject)
        elif isinstance(subject, type) and is_python_class(subject) and not importable(subject):
            return self._written_class(subject, definition)
        return self.pickled(subject, _title(subject), definition)[:3]

    def _written_class(self, cls: type, definition: Definition) -> tuple[bytes, tuple[Any, ...], list[Definition]]:
        try:
            return self.pickled(cls, _title(cls), definition)[:3]
        except MemoryError:
            raise
        except Exception:
            replaced: dict[str, object] = {}
            for name, value in cls.__dict__.items():
                if name.startswith("__") and name.endswith("__"):
                    continue
                try:
                    pickled_somehow(self, value)
                except Exception as error:
                    replaced[name] = make_missing(f"{cls.__qualname__}.{name}", f"{type(error).__name__}: {error}")
            return self.pickled(cls, _title(cls), definition, replaced)[:3]

    def _reads(self, fn: FunctionType) -> tuple[Read, ...]:
        return reads_of(fn, self.namespaces.key(fn.__globals__))

    def by_name(self, name: str) -> bytes:
        """A pickle of what *name* meant at the fork."""
        return pickle.dumps(_Inherited(self.space, name), PROTOCOL)

    def pickled(
        self,
        obj: object,
        title: str,
        definition: Definition | None = None,
        replaced: dict[str, object] | None = None,
        in_band: bool = False,
    ) -> tuple[bytes, tuple[Any, ...], list[Definition], ValuePickler]:
        """*obj* as a pickle; raises CannotTravel that names the path to what failed, starting with *title*."""
        learn_lazily_imported()
        seen: list[object] = []
        root = None if definition is None else (obj, definition)
        try:
            options: dict[str, Any] = {"root": root, "replaced": replaced, "in_band": in_band}
            written = pickled_somehow(self, obj, seen=seen, **options)
            if self.snapshot is None and names_main(written[0]):
                # Under fork the name is there; elsewhere a constant that pickles as its name has to be sent.
                written = pickled_somehow(self, obj, seen=seen, kind=ConstantPickler, **options)
            return written
        except MemoryError:
            raise
        except Exception as error:
            raise explanation(roots(obj, title), seen, error) from error

    # --- references -------------------------------------------------------------------------------------------------

    def ref(self, definition: Definition) -> FunctionRef:
        """What a task needs in order to use *definition*; made anew when a global or a closure has changed."""
        ref = definition.ref
        if ref is not None and ref.valid():
            return ref
        subject = definition.subject() or definition.fresh
        for _ in range(5):  # more often only if other threads keep changing the closures
            closure = Closure(self, self.bindings, [definition])
            by_reference = importable(subject) if hasattr(subject, "__qualname__") else False
            ref = FunctionRef(definition, closure.needs, None if by_reference else closure.checks)
            stale, keys = closure.stale()
            if not stale:
                break
            with self._lock:
                entries = list(self.by_object.items())
                for at, old in entries:
                    if old.number in stale:
                        del self.by_object[at]
            del entries
            for key in keys:
                self.bindings.drop(key)
            definition = self.define(subject)
        assert ref is not None
        definition.ref = ref
        return ref

    def needs(self, found: list[Definition]) -> tuple[Need, ...]:
        """What a payload needs that refers to the definitions *found*."""
        different = dict.fromkeys(found)
        if len(different) == 1:
            return self.ref(found[0]).needs
        needs = {need[0]: need for definition in different for need in self.ref(definition).needs}
        return tuple(needs.values())

    # --- forgetting -------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Drop the definitions of objects that died."""
        while True:
            try:
                at = self._fallen.popleft()
            except IndexError:
                return
            definition = None  # what it holds is let go outside of the lock: finalizers are user code
            with self._lock:
                definition = self.by_object.get(at)
                if definition is not None and definition.subject() is None:
                    del self.by_object[at]

    def _evict(self) -> None:
        """Drop the older half of the functions (cycles may keep them alive here); used again, they travel anew."""
        with self._lock:
            functions = [at for at, d in self.by_object.items() if type(d.subject()) in (FunctionType, type(None))]
            gone = [self.by_object.pop(at) for at in functions[: len(functions) // 2]]
            self._limit = max(_KEPT, 2 * len(self.by_object))
            for at, token in list(self._cells.items()):
                if token() is None:
                    del self._cells[at]
        del gone  # outside of the lock: finalizers are user code

    # --- how the pickler writes what travels by value (Traveller) ---------------------------------------------------

    def write_function(self, pickler: ValuePickler, fn: FunctionType) -> Any:
        if pickler.root is not None and pickler.root[0] is fn:
            definition: Definition = pickler.root[1]
            key = self.namespaces.key(fn.__globals__)
            return home.reduce_function(fn, self.space, definition.number, key, fn.__closure__ or ())
        return self._refer(pickler, fn)

    def write_class(self, pickler: ValuePickler, cls: type) -> Any:
        if pickler.root is not None and pickler.root[0] is cls:
            return reduce_class(cls, self.space, pickler.root[1].number, pickler.replaced)
        return self._refer(pickler, cls)

    def write_object(self, pickler: ValuePickler, thing: Any, reduced: Callable[[Any], Any]) -> Any:
        if pickler.root is not None and pickler.root[0] is thing:
            return reduced(thing)
        return self._refer(pickler, thing)

    def write_cell(self, pickler: ValuePickler, cell: CellType) -> Any:
        content = home.cell_content(cell)
        reference = self._cells.get(id(cell))
        token = None if reference is None else reference()
        if token is None or not token.same(cell, content):
            token = CellToken(self.new_number(), self.dead, content)
            with self._lock:
                self._cells[id(cell)] = weakref.ref(token)
        if pickler.root is not None:
            owner, definition = pickler.root
            definition.cells.append(token)
            if type(owner) is FunctionType:
                token.add_owner(owner)
        return home.make_cell, (self.space, token.number)

    def lend(self, pickler: ValuePickler, fd: int) -> family.Ticket:
        """Lend *fd* for as long as a task needs it: it may be tried more than once, or never begin."""
        ticket = family.lend(fd, held=True)
        self.keep(pickler, Held(ticket))
        return ticket

    def keep(self, pickler: ValuePickler, thing: object) -> None:
        """Keep *thing* as long as a task needs what is being pickled."""
        definition = Definition(self.new_number(), thing, self._fallen)
        definition.fresh = None
        # Nobody ever builds it: it is there to be held by the task, like all that the task needs.
        parcel = Fleeting(b"", ())
        parcel.token = Token(definition.number, self.dead, (thing,))
        definition.built = (definition.number, None, parcel)
        pickler.found.append(definition)

    def _refer(self, pickler: ValuePickler, thing: Any) -> Any:
        definition = self.define(thing)
        pickler.found.append(definition)
        return home.resolve, (self.space, definition.number)

    # --- how results name what is here (Home) -----------------------------------------------------------------------

    def subject(self, number: int) -> Any:
        """What is defined under *number*; None if it is gone."""
        definition = self._by_number.get(number)
        return None if definition is None else definition.subject()

    def resolve(self, number: int) -> object:
        subject = self.subject(number)
        if subject is None:
            raise LookupError("the class or function that it refers to is gone from the submitting process")
        return subject

    def known(self, number: int) -> object:
        return ABSENT

    def adopt(self, number: int, made: object) -> object:
        return made

    def cell(self, number: int) -> CellType:
        return CellType()

    def namespace(self, key: str) -> dict[str, Any]:
        return self.namespaces.find(key)

    def inherited(self, name: str) -> object:
        assert self.snapshot is not None
        return self.snapshot.find(name)


class _Inherited:
    """Pickles as a call of ``inherited(space, name)``."""

    def __init__(self, space: int, name: str) -> None:
        self.told = (space, name)

    def __reduce__(self) -> Any:
        return home.inherited, self.told


def _title(subject: Any) -> str:
    name = getattr(subject, "__qualname__", None) or repr(subject)
    return f"class {name}" if isinstance(subject, type) else f"function {name}"
