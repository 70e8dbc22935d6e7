"""Functions of scripts and notebooks, lambdas and closures: what travels by value, and how it is rebuilt.

A function or class is sent by reference when the other process can import it, by value otherwise.
By value means: its code (marshal), names, defaults, closure, annotations and attributes; nothing is
imported for it. Its globals are never sent along with it: every process has one namespace per *home*
and the names that a function reads are bound there (see wire.py).

A *home* is what a process knows about one pool: the Encoder in the process that submits, the Decoder
in a worker. Pickles name it by its number (``space``), so plain ``pickle.loads`` can rebuild them.
"""

from __future__ import annotations

import marshal
import sys
import threading
import weakref
from importlib import import_module
from opcode import opmap
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType

from multitask._typing import Any, NamedTuple, Protocol

PROTOCOL = 5


class _Absent:
    """The value of a name that is not bound, of a cell that is empty."""

    def __repr__(self) -> str:
        return "<absent>"

    def __reduce__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


class Home(Protocol):
    """What a process knows about one pool: objects by number, cells by number, namespaces by key."""

    def resolve(self, number: int) -> object: ...
    def known(self, number: int) -> object: ...
    def adopt(self, number: int, made: object) -> object: ...
    def cell(self, number: int) -> CellType: ...
    def namespace(self, key: str) -> dict[str, Any]: ...
    def inherited(self, name: str) -> object: ...


# Weak, so that a closed pool can go; the owner of a home (pool or worker loop) keeps it alive.
homes: weakref.WeakValueDictionary[int, Home] = weakref.WeakValueDictionary()


# --- what can be imported elsewhere ---------------------------------------------------------------------------------

MAINS = ("__main__", "__mp_main__")
_importable: dict[str, tuple[ModuleType, bool]] = {}


def importable_module(name: str, module: ModuleType) -> bool:
    """Whether another process that has our sys.path finds *module* by ``import name``."""
    known = _importable.get(name)
    if known is None or known[0] is not module:
        known = _importable[name] = (module, _can_import(name, module))
    return known[1]


def _can_import(name: str, module: ModuleType) -> bool:
    if name in MAINS:
        return False
    if name in sys.builtin_module_names:
        return True
    above, _, _ = name.rpartition(".")
    path = None
    if above:
        package = sys.modules.get(above)
        if package is None or not importable_module(above, package):
            return False
        path = getattr(package, "__path__", None)
        if path is None:
            return True  # a module that puts its parts into sys.modules itself, like os.path
    for finder in tuple(sys.meta_path):
        try:
            found = finder.find_spec(name, path, None)
        except Exception:
            continue
        if found is not None:
            own = getattr(getattr(module, "__spec__", None), "origin", None)
            return own is None or found.origin is None or own == found.origin
    return bool(above)  # made by its importable package, like six.moves


def importable(thing: Any) -> bool:
    """Whether a function, class or the like is found under its own name in an importable module."""
    name = getattr(thing, "__module__", None)
    if not isinstance(name, str) or name in MAINS:
        return False
    module = sys.modules.get(name)
    if module is None:
        return False
    qualname = str(getattr(thing, "__qualname__", None) or getattr(thing, "__name__", ""))
    known = _importable.get(name)
    if known is not None and known[0] is module:
        if not known[1]:
            return False
        if vars(module).get(qualname) is thing:
            return True
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, ABSENT)
    return found is thing and importable_module(name, module)


made_main: ModuleType | None = None  # in a worker: the namespace that stands where a script would


def main_namespace() -> dict[str, Any]:
    return sys.modules["__main__"].__dict__


class Namespaces:
    """Keys for the global dicts of by-value functions: "" is ``__main__``, "@m" module m, "#n" a dict of its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may submit while we hold it
        self._own: dict[int, tuple[dict[str, Any], str]] = {}

    def count(self) -> int:
        """How many dicts have a key of their own; they are held."""
        return len(self._own)

    def key(self, namespace: dict[str, Any]) -> str:
        if namespace is main_namespace():
            return ""
        name = str(namespace.get("__name__", ""))
        if name in MAINS:
            return ""
        module = sys.modules.get(name)
        if module is not None and module.__dict__ is namespace and importable_module(name, module):
            return "@" + name
        with self._lock:
            _, key = self._own.setdefault(id(namespace), (namespace, f"#{len(self._own)}"))
        return key

    def find(self, key: str) -> dict[str, Any]:
        if key.startswith("@"):
            return import_module(key[1:]).__dict__
        for namespace, own in tuple(self._own.values()):
            if own == key:
                return namespace
        return main_namespace()


# --- what a function's code reads -----------------------------------------------------------------------------------


class CodeFacts(NamedTuple):
    """What is computed once per code object."""

    code: CodeType  # kept, so that its id stays its own
    data: bytes
    reads: tuple[str, ...]  # global names that it or a code nested in it reads
    names: frozenset[str]  # every name in it, attributes too


_LOAD_GLOBAL = opmap["LOAD_GLOBAL"]
_LOAD_NAMES = frozenset(opmap[name] for name in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") if name in opmap)
_EXTENDED_ARG = opmap["EXTENDED_ARG"]
_FACTS_KEPT = 4096
_facts: dict[int, CodeFacts] = {}


def code_facts(code: CodeType) -> CodeFacts:
    facts = _facts.get(id(code))
    if facts is None or facts.code is not code:
        reads: dict[str, None] = {}
        names: set[str] = set()
        _scan(code, reads, names)
        if len(_facts) >= _FACTS_KEPT:
            _facts.clear()
        facts = _facts[id(code)] = CodeFacts(code, marshal.dumps(code), tuple(reads), frozenset(names))
    return facts


def _scan(code: CodeType, reads: dict[str, None], names: set[str]) -> None:
    names.update(code.co_names)
    raw = code.co_code
    high = 0
    for at in range(0, len(raw), 2):
        op, arg = raw[at], raw[at + 1] | high
        high = 0
        if op == _EXTENDED_ARG:
            high = arg << 8
        elif op == _LOAD_GLOBAL:
            reads[code.co_names[arg >> 1]] = None
        elif op in _LOAD_NAMES:
            reads[code.co_names[arg]] = None
    for const in code.co_consts:
        if isinstance(const, CodeType):
            _scan(const, reads, names)


def submodules_used(fn: FunctionType, facts: CodeFacts) -> tuple[str, ...]:
    """Modules that *fn* reaches as attributes of a package (``xml.etree.ElementTree``) and that must be imported."""
    space = fn.__globals__
    used: list[str] = []
    for name in facts.reads:
        package = space.get(name)
        if isinstance(package, ModuleType) and hasattr(package, "__path__"):
            start = package.__name__ + "."
            used += [
                module
                for module in tuple(sys.modules)
                if module.startswith(start) and facts.names.issuperset(module[len(start) :].split("."))
            ]
    return tuple(used)


# --- a function as a pickle -----------------------------------------------------------------------------------------


def reduce_function(fn: FunctionType, space: int, number: int | None, key: str, closure: tuple[Any, ...]) -> Any:
    """The pickle of *fn*: a bare function first, what may refer back to it second."""
    facts = code_facts(fn.__code__)
    code = fn.__code__
    names = (fn.__name__, fn.__qualname__, fn.__module__)
    made = (space, number, facts.data, key, names, closure, submodules_used(fn, facts))
    contents = tuple([cell_content(cell) for cell in fn.__closure__ or ()])
    notes = _annotations(fn)
    doc = fn.__doc__ if fn.__doc__ != (code.co_consts[0] if code.co_consts else None) else None
    state = (fn.__defaults__, fn.__kwdefaults__, contents, notes, fn.__dict__ or None, doc)
    if state == (None, None, (), None, None, None):
        return make_function, made
    return make_function, made, state, None, None, fill_function


def _annotations(fn: FunctionType) -> dict[str, Any] | None:
    try:
        return fn.__annotations__ or None
    except Exception:  # lazily evaluated ones may name what does not exist
        return None


def cell_content(cell: CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def make_function(
    space: int,
    number: int | None,
    code: bytes,
    key: str,
    names: tuple[str, str, str],
    closure: tuple[CellType, ...],
    modules: tuple[str, ...],
) -> object:
    home = homes[space]
    if number is not None:
        made = home.known(number)
        if made is not ABSENT:
            return made
    for module in modules:
        try:
            import_module(module)
        except Exception:  # the use of it says so better
            pass
    name, qualname, module = names
    fn = FunctionType(marshal.loads(code), home.namespace(key), name, None, closure or None)
    fn.__qualname__ = qualname
    fn.__module__ = module
    return fn if number is None else home.adopt(number, fn)


def fill_function(fn: FunctionType, state: tuple[Any, ...]) -> None:
    defaults, kwdefaults, contents, notes, attributes, doc = state
    fn.__defaults__ = defaults
    fn.__kwdefaults__ = kwdefaults
    for cell, content in zip(fn.__closure__ or (), contents, strict=True):
        # A cell shared with a function that came earlier keeps what the worker has put into it.
        if content and not cell_content(cell):
            cell.cell_contents = content[0]
    if notes:
        fn.__annotations__ = notes
    if attributes:
        fn.__dict__.update(attributes)
    if doc is not None:
        fn.__doc__ = doc


def make_cell(space: int | None, number: int) -> CellType:
    return CellType() if space is None else homes[space].cell(number)


def resolve(space: int, number: int) -> object:
    """The object that travelled under *number* in the pool *space*."""
    home = homes.get(space)
    if home is None:
        raise LookupError(f"no pool {space} is known here any more")
    return home.resolve(number)


def inherited(space: int, name: str) -> object:
    """What *name* meant in ``__main__`` when the worker was forked."""
    return homes[space].inherited(name)


def main_module() -> ModuleType:
    return sys.modules["__main__"]


def is_plain_builtin(fn: object) -> bool:
    """Whether *fn* is a function of an extension module (not a method bound to an object)."""
    return type(fn) is BuiltinFunctionType and (fn.__self__ is None or isinstance(fn.__self__, ModuleType))
