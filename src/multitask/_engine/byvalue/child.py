"""The worker's side: one ``__main__`` namespace, definitions built when first used, results written.

Owner: the worker's task loop; nobody else calls into a Decoder.
Rule: ``define`` only stores. What it stored is built and bound by the next ``function`` or ``load``, so an
import that hangs or a class that kills the worker counts as part of the task that needed it.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable
from types import CellType, FunctionType, ModuleType

from multitask._engine import family
from multitask._engine.byvalue import home
from multitask._engine.byvalue.classes import reduce_class
from multitask._engine.byvalue.graph import Parcel
from multitask._engine.byvalue.home import ABSENT, PROTOCOL, Namespaces, homes
from multitask._engine.byvalue.missing import make_missing
from multitask._engine.byvalue.pickling import DESK_BYTES, Desk, ValuePickler, is_plain, pickled_somehow
from multitask._engine.byvalue.reducers import learn_lazily_imported
from multitask._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multitask._engine.byvalue.snapshot import Snapshot


class Decoder:
    """Reads functions and arguments in a worker and writes its results and errors.

    ``snapshot`` is what the parent's encoder knows of ``__main__``, where the worker was forked from it.
    """

    def __init__(self, space: int, snapshot: Snapshot | None = None) -> None:
        self.space = space
        self._snapshot = snapshot
        self._objects: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}  # id of an object in _objects -> its number
        self._unbuilt: dict[int, Parcel] = {}
        self._cells: dict[int, CellType] = {}
        self._pending: list[tuple[int, str, Parcel]] = []
        self._bound: dict[str, int] = {}  # the binding that was made last, by key
        self._shipped: dict[str, object] = {}  # what was bound by us, by key
        self._spaces: dict[str, dict[str, Any]] = {}
        self._namespaces = Namespaces()
        self._desk: Desk | None = None
        self._old_main: ModuleType | None = None

    def install(self) -> None:
        """Give this process the ``__main__`` that by-value functions share; a forked one keeps what it has."""
        homes[self.space] = self
        if self._snapshot is None:
            self._old_main = sys.modules.get("__main__")  # its code may still be running
            main = ModuleType("__main__")
            main.__dict__["__builtins__"] = sys.modules["builtins"]
            sys.modules["__main__"] = home.made_main = main
        else:
            # What stands there unchanged since the fork counts as sent by the parent.
            self._shipped.update(home.main_namespace())

    # --- what the parent sends --------------------------------------------------------------------------------------

    def define(self, number: int, name: str | None, parcel: Parcel) -> None:
        """Take a definition (*name* is None) or the binding of a global. Never raises, runs no user code."""
        if name is None:
            self._unbuilt[number] = parcel
        else:
            self._pending.append((number, name, parcel))

    def forget(self, ids: Iterable[int]) -> None:
        """Drop definitions that no task can refer to any more."""
        for number in ids:
            self._unbuilt.pop(number, None)
            self._cells.pop(number, None)
            thing = self._objects.pop(number, None)
            if thing is not None:
                self._numbers.pop(id(thing), None)

    def function(self, number: int) -> Callable[..., Any]:
        """The function defined under *number*. Raises CannotTravel when it cannot be rebuilt here."""
        if self._pending:
            self._bind()
        found = self._objects.get(number, ABSENT)
        if found is ABSENT:
            try:
                found = self.resolve(number)
            except MemoryError as error:
                raise starved(error, "the function was rebuilt") from None
            except Exception as error:
                raise cannot_rebuild("the function", error) from error
        return found  # type: ignore[no-any-return]

    def load(self, parcel: Parcel) -> object:
        """The payload in *parcel*. Raises CannotTravel when it cannot be rebuilt here."""
        if self._pending:
            self._bind()
        try:
            return loads(parcel)
        except MemoryError as error:
            raise starved(error, "the arguments were rebuilt") from None
        except Exception as error:
            raise cannot_rebuild("an argument", error) from error

    def _bind(self) -> None:
        pending, self._pending = self._pending, []
        for number, key, parcel in pending:
            if self._bound.get(key) == number:
                continue  # sent again, as after an initializer that needed it too: keep what has become of it
            self._bound[key] = number
            space_key, _, name = key.rpartition(".") if key.startswith("#") else ("", "", key)
            space = self.namespace(space_key)
            current = space.get(name, ABSENT)
            if current is not ABSENT and current is not self._shipped.get(key, ABSENT):
                continue  # the worker has set it itself
            try:
                value = loads(parcel)
            except Exception as error:
                value = make_missing(f"global {name!r}", f"{type(error).__name__}: {error}")
            space[name] = self._shipped[key] = value

    # --- how pickles name what is here (Home) -----------------------------------------------------------------------

    def resolve(self, number: int) -> object:
        found = self._objects.get(number, ABSENT)
        if found is not ABSENT:
            return found
        parcel = self._unbuilt.get(number)
        if parcel is None:
            raise LookupError(f"definition {number} was not sent to this worker")
        try:
            found = self.adopt(number, loads(parcel))
        except BaseException:
            half = self._objects.pop(number, None)  # the next use tries again and says the same
            self._numbers.pop(id(half), None)
            raise
        self._unbuilt.pop(number, None)
        return found

    def known(self, number: int) -> object:
        return self._objects.get(number, ABSENT)

    def adopt(self, number: int, made: object) -> object:
        made = self._objects.setdefault(number, made)
        self._numbers[id(made)] = number
        return made

    def cell(self, number: int) -> CellType:
        return self._cells.setdefault(number, CellType())

    def namespace(self, key: str) -> dict[str, Any]:
        if not key:
            return home.main_namespace()
        if key.startswith("@"):
            return self._namespaces.find(key)
        space = self._spaces.get(key)
        if space is None:
            space = self._spaces[key] = {"__name__": "__main__", "__builtins__": sys.modules["builtins"]}
        return space

    def inherited(self, name: str) -> object:
        assert self._snapshot is not None
        return self._snapshot.find(name)

    # --- what goes back ---------------------------------------------------------------------------------------------

    def dump(self, obj: object) -> Parcel:
        """A result as a parcel. Raises CannotTravel that names the path to what cannot travel."""
        if is_plain(obj):
            return Parcel(pickle.dumps(obj, PROTOCOL))
        desk, self._desk = self._desk or Desk(self), None
        try:
            desk.pickler.dump(obj)
        except MemoryError as error:
            raise starved(error, "the result was pickled") from None
        except Exception:
            return self._dump_again(obj)
        data = desk.file.getvalue()
        parcel = Parcel(data, tuple(desk.buffers))
        if len(data) < DESK_BYTES:
            desk.clear()
            self._desk = desk
        return parcel

    def _dump_again(self, obj: object) -> Parcel:
        """After a failure: with the reducers for exotic types, and with witnesses to what fails."""
        learn_lazily_imported()
        seen: list[object] = []
        try:
            data, buffers, _, _ = pickled_somehow(self, obj, seen=seen)
        except MemoryError as error:
            raise starved(error, "the result was pickled") from None
        except Exception as error:
            from multitask._engine.byvalue.paths import explanation, roots

            raise explanation(roots(obj, "result"), seen, error) from error
        return Parcel(data, buffers)

    def dump_error(self, error: BaseException) -> Parcel:
        """An error of the task as a parcel. Never fails, whatever the error is."""
        from multitask._engine.byvalue.report import write_error

        return write_error(error, self)

    def write_function(self, pickler: ValuePickler, fn: FunctionType) -> Any:
        if pickler.root is not None and pickler.root[0] is fn:
            return self._inline(fn)
        name = None if self._snapshot is None else self._snapshot.name(fn)
        if name is not None:
            return home.inherited, (self.space, name)
        number = self._number(fn)
        if number is None:
            return self._inline(fn)
        # The parent may have dropped a lambda since: then it is rebuilt from what comes with the number.
        data = pickled_somehow(self, fn, root=(fn, None), in_band=True)[0]
        return revive, (self.space, number, data)

    def _inline(self, fn: FunctionType) -> Any:
        key = self._namespaces.key(fn.__globals__)
        for own, space in self._spaces.items():
            if space is fn.__globals__:
                key = own
        return home.reduce_function(fn, self.space, None, key, fn.__closure__ or ())

    def write_class(self, pickler: ValuePickler, cls: type) -> Any:
        name = None if self._snapshot is None else self._snapshot.name(cls)
        if name is not None:
            return home.inherited, (self.space, name)
        number = self._number(cls)
        if number is not None:
            return home.resolve, (self.space, number)
        learn_lazily_imported()
        return reduce_class(cls, self.space, None, {})

    def write_object(self, pickler: ValuePickler, thing: Any, reduced: Callable[[Any], Any]) -> Any:
        name = None if self._snapshot is None else self._snapshot.name(thing)
        if name is not None:
            return home.inherited, (self.space, name)
        number = self._number(thing)
        return reduced(thing) if number is None else (home.resolve, (self.space, number))

    def write_cell(self, pickler: ValuePickler, cell: CellType) -> Any:
        return home.make_cell, (None, 0)

    def lend(self, pickler: ValuePickler, fd: int) -> family.Ticket:
        return family.lend(fd)

    def _number(self, thing: object) -> int | None:
        number = self._numbers.get(id(thing))
        return number if number is not None and self._objects.get(number) is thing else None


def loads(parcel: Parcel) -> Any:
    """Unpickle; what was writable stays writable, also where the channel delivered bytes."""
    data, buffers = parcel
    if not buffers:
        return pickle.loads(data)
    return pickle.loads(data, buffers=[bytearray(b) if type(b) is bytes else b for b in buffers])


def revive(space: int, number: int, data: bytes) -> object:
    """The function that travelled under *number*, or, if it is gone here, a copy of it."""
    try:
        return home.resolve(space, number)
    except LookupError:
        return pickle.loads(data)


def starved(error: MemoryError, meanwhile: str) -> MemoryError:
    """*error* with a note of where: it stays a MemoryError, for it says nothing about the object that was to travel."""
    error.add_note(f"memory ran out while {meanwhile}")
    return error


def cannot_rebuild(what: str, error: BaseException) -> Exception:
    from multitask.errors import CannotTravel

    if isinstance(error, CannotTravel):
        return error
    return CannotTravel(
        f"{what} arrived but could not be rebuilt",
        why=f"{type(error).__name__}: {error}",
        fix=(
            "make the pool below what its module defines: a forked worker knows what was there at the fork"
            if isinstance(error, AttributeError)
            and ("Can't get attribute" in str(error) or isinstance(error.obj, ModuleType))  # 3.14 names the module
            else "check its __reduce__, __setstate__ or __init__: they run again where it arrives"
        ),
    )
