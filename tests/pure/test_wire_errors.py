"""Errors of tasks: the real class where it can be rebuilt, a stand-in otherwise, the traceback always."""

from __future__ import annotations

import pickle

import pytest
from test_wire_globals import run_case

from multitask._engine.wire import Encoder, Parcel
from multitask.errors import CannotTravel, MultitaskError, RemoteTraceback

ERRORS = """
import traceback, dataclasses
from multitask.errors import MultitaskError, RemoteTraceback, WorkerLost
from multitask._engine.byvalue.errors import RemoteError
class TwoArgs(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code; self.text = text
class KeywordOnly(ValueError):
    def __init__(self, *, why): super().__init__(why); self.why = why
class Slots(Exception):
    __slots__ = ("extra",)
    def __init__(self, extra): self.extra = extra
class MyOS(OSError): pass
class MyOSInit(OSError):
    def __init__(self, n): super().__init__(2, "gone", "file"); self.n = n
class HoldsLock(ValueError):
    def __init__(self): super().__init__("held"); self.lock = threading.Lock(); self.fine = 3
class LockInArgs(KeyError): pass
class BadReduce(Exception):
    def __reduce__(self): raise RuntimeError("no")
class WrongReduce(Exception):
    def __init__(self, a, b): super().__init__(a); self.b = b
    def __reduce__(self): return (WrongReduce, (1,))
class OwnReduce(Exception):
    def __init__(self, a, b): super().__init__(a, b); self.a = a; self.b = b
    def __reduce__(self): return (OwnReduce, (self.a, self.b))
class OwnNew(Exception):
    def __new__(cls, a, b): return super().__new__(cls, a)
    def __init__(self, a, b): self.both = a, b
class BadStr(Exception):
    def __str__(self): raise RuntimeError("no str")
class BadRepr(Exception):
    def __repr__(self): raise SystemExit(4)
    __str__ = __repr__
@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    a: int = 1
class BadDict(Exception):
    @property
    def __dict__(self): raise ValueError("no dict")
class BadMeta(type):
    def __reduce_ex__(cls, p): raise ValueError
class WithMeta(Exception, metaclass=BadMeta): pass
def throw(make):
    raise make()
def caught(lane, make):
    try: lane(throw, make)
    except BaseException as error:
        cause = error.__cause__
        assert type(cause) is RemoteTraceback, repr(cause)
        assert "in throw" in str(cause), str(cause)
        assert "_engine" not in str(cause), str(cause)
        return error
    raise AssertionError("nothing was raised")
def dynamic(): return type("Dynamic", (LookupError,), {"__init__": lambda s, a: None})(5)
def held(): e = LockInArgs("a", threading.Lock()); return e
def noted(): e = ValueError("v"); e.add_note("a note"); return e
def group(): return ExceptionGroup("many", [TwoArgs(1, "x"), ValueError(2)])
def chained():
    try: {}["first"]
    except KeyError as first:
        try: raise TwoArgs(1, "second") from first
        except TwoArgs: raise TypeError("third")
def deep():
    def down(n): return down(n + 1)
    down(0)
def exits(): raise SystemExit(3)
with lane() as lane:
    e = caught(lane, lambda: TwoArgs(7, "seven"))
    check((type(e) is TwoArgs, e.code, e.text, e.args), (True, 7, "seven", ("7: seven",)))
    e = caught(lane, lambda: KeywordOnly(why="w")); check((type(e) is KeywordOnly, e.why), (True, "w"))
    e = caught(lane, lambda: Slots(4)); check((type(e) is Slots, e.extra), (True, 4))
    e = caught(lane, lambda: MyOS(13, "denied", "f"))
    check((type(e), e.errno, e.filename, str(e)), (MyOS, 13, "f", "[Errno 13] denied: 'f'"))
    e = caught(lane, lambda: MyOSInit(9)); check((type(e), e.errno, e.filename, e.n), (MyOSInit, 2, "file", 9))
    e = caught(lane, lambda: OSError(2, "x")); check(type(e), FileNotFoundError)
    e = caught(lane, HoldsLock)
    assert isinstance(e, MultitaskError) and isinstance(e, HoldsLock) and isinstance(e, RemoteError), type(e).__mro__
    check(e.fine, 3)
    assert "HoldsLock" in str(e) and "held" in str(e), str(e)
    with fails(CannotTravel, "'lock'"): e.lock
    with fails(AttributeError): e.nothing
    e = caught(lane, held)
    assert isinstance(e, LockInArgs) and isinstance(e, MultitaskError)
    assert "LockInArgs" in str(e) and "lock" in str(e), str(e)
    for make, words in [(lambda: BadReduce("br"), "br"), (BadDict, "")]:
        e = caught(lane, make)
        assert isinstance(e, (BadReduce, BadDict)), repr(e)
        assert words in str(e)
    e = caught(lane, lambda: WrongReduce("a", "b")); check((type(e), e.args, e.b), (WrongReduce, ("a",), "b"))
    e = caught(lane, lambda: OwnReduce(1, 2)); check((type(e), e.a, e.b), (OwnReduce, 1, 2))
    e = caught(lane, lambda: OwnNew(1, 2)); check((type(e), e.both), (OwnNew, (1, 2)))
    check(type(caught(lane, lambda: BadStr("x"))), BadStr)
    check(type(caught(lane, lambda: BadRepr("x"))), BadRepr)
    e = caught(lane, FrozenError); check((type(e), e.a), (FrozenError, 1))
    check(type(caught(lane, WithMeta)), WithMeta)
    e = caught(lane, dynamic); check((type(e).__name__, isinstance(e, LookupError)), ("Dynamic", True))
    e = caught(lane, noted); check(e.__notes__, ["a note"]); assert "a note" in str(e.__cause__)
    e = caught(lane, group)
    check((type(e), [type(x) for x in e.exceptions]), (ExceptionGroup, [TwoArgs, ValueError]))
    check(e.exceptions[0].code, 1)
    assert "TwoArgs" in str(e.__cause__)
    try: lane(chained)
    except TypeError as e:
        text = str(e.__cause__)
        for word in ("KeyError: 'first'", "direct cause", "second", "During handling", "third"):
            assert word in text, text
    with fails(RecursionError): lane(deep)
    for make, kind, args in [(lambda: SystemExit(3), SystemExit, (3,)), (KeyboardInterrupt, KeyboardInterrupt, ()),
                             (lambda: GeneratorExit("g"), GeneratorExit, ("g",)),
                             (lambda: StopIteration(4), StopIteration, (4,))]:
        e = caught(lane, make); check((type(e), e.args), (kind, args))
    check(caught(lane, lambda: SystemExit(3)).code, 3)
    e = caught(lane, lambda: UnicodeDecodeError("utf8", b"x", 0, 1, "bad"))
    check((type(e), e.reason), (UnicodeDecodeError, "bad"))
    e = caught(lane, lambda: WorkerLost("lost", why="w")); check((type(e), e.why), (WorkerLost, "w"))
    e = caught(lane, lambda: ImportError("i", name="n")); check((type(e), e.name), (ImportError, "n"))
    e = lane(lambda: TwoArgs(1, "as a value")); check((type(e), e.code), (TwoArgs, 1))
    e = lane(lambda x: x, HoldsLock) ; assert e is HoldsLock
    # a stand-in travels on
    e = caught(lane, HoldsLock)
    e2 = lane(lambda e: e, e)
    check((type(e2).__name__, isinstance(e2, HoldsLock), str(e2), e2.fine), ("RemoteHoldsLock", True, str(e), 3))
"""

PATHS = """
import collections
class Node:
    def __init__(self, **kw): self.__dict__.update(kw)
class Slot:
    __slots__ = ("inner",)
class Stateful:
    def __init__(self, x): self.x = x
    def __getstate__(self): return {"wrapped": [self.x]}
class Bad:
    def __reduce__(self): raise ValueError("never")
class BadDict(dict):
    def items(self): raise KeyError("hostile")
class WontLoad:
    def __reduce__(self): return (int, ("notanumber",))
class Loud:
    def __setstate__(self, state): raise RuntimeError("setstate")
    def __init__(self): self.a = 1
Pair = collections.namedtuple("Pair", "left right")
lock = threading.Lock()
def ident(*a, **k): return a, k
def path_of(lane, *args, **kwargs):
    try: lane.encode(ident, args, kwargs)
    except CannotTravel as e:
        assert e.path in str(e)
        return e.path
    raise AssertionError("it travelled")
with lane() as lane:
    check(path_of(lane, {"conn": Node(sock=lock)}), "args[0]['conn'].sock")
    check(path_of(lane, 1, 2, [3, lock]), "args[2][1]")
    check(path_of(lane, x=lock), "kwargs['x']")
    check(path_of(lane, Pair(1, lock)), "args[0].right")
    sl = Slot(); sl.inner = {"k": (lock,)}
    check(path_of(lane, sl), "args[0].inner['k'][0]")
    check(path_of(lane, Stateful(lock)), "args[0].x")
    check(path_of(lane, (i for i in "x")), "args[0]")
    check(path_of(lane, Bad()), "args[0]")
    check(path_of(lane, [Node(a=Bad())]), "args[0][0].a")
    loop = [1]; loop.append(loop); loop.append({"l": lock})
    check(path_of(lane, loop), "args[0][2]['l']")
    huge = list(range(300_000)) + [lock]
    assert path_of(lane, huge).startswith("args[0]")
    many = {i: [i] for i in range(1000)}; many[500] = [lock]
    check(path_of(lane, many), "args[0][500][0]")
    def closed():
        private = lock
        return lambda: private
    assert "private" in path_of(lane, closed()), path_of(lane, closed())
    import functools
    check(path_of(lane, functools.partial(ident, lock)), "args[0].args[0]")
    deep = []
    for _ in range(100_000): deep = [deep]
    assert path_of(lane, deep).startswith("args")
    while deep: deep = deep[0]
    try: lane.encode(closed(), (), {})
    except CannotTravel as e: assert "private" in str(e), str(e)
    else: raise AssertionError
    try: lane.encode(lambda x=lock: x, (), {})
    except CannotTravel as e: assert "lock" in str(e), str(e)
    else: raise AssertionError
    try: lane.encode(functools.partial(ident, lock), (), {})
    except CannotTravel as e: check(e.path, "the function.args[0]")
    else: raise AssertionError
    # results
    for make, path in [(threading.Lock, "result"), (lambda: {"a": [1, threading.Lock()]}, "result['a'][1]"),
                       (lambda: (i for i in ()), "result"),
                       (lambda: Node(gen=(i for i in ())), "result.gen")]:
        try: lane(make)
        except CannotTravel as e: check(e.path, path)
        else: raise AssertionError
    # what cannot be rebuilt there, or here
    with fails(CannotTravel, "invalid literal"): lane(ident, WontLoad())
    with fails(CannotTravel, "setstate"): lane(ident, Loud())
    with fails(CannotTravel, "invalid literal"): lane(lambda: WontLoad())
    with fails(CannotTravel, "setstate"): lane(lambda: Loud())
    # a keyboard interrupt in a __reduce__ is nobody's pickling problem
    class Interrupts:
        def __reduce__(self): raise KeyboardInterrupt
    with fails(KeyboardInterrupt): lane.encode(ident, (Interrupts(),), {})
    check(lane(ident, 1), ((1,), {}))
"""


@pytest.mark.parametrize("fork", [False, True])
@pytest.mark.parametrize("text", [ERRORS, PATHS], ids=["errors", "paths"])
def test_errors_arrive(text, fork, tmp_path):
    run_case(text, fork, tmp_path)


def test_error_parcel_that_cannot_be_read_still_gives_an_error():
    encoder = Encoder()
    for data in (b"", b"junk", pickle.dumps(1), pickle.dumps(("Kind", "words", "trace", [b"junk", pickle.dumps(3)]))):
        error = encoder.load_error(Parcel(data))
        assert isinstance(error, MultitaskError) and isinstance(error.__cause__, RemoteTraceback)
    assert "Kind: words" in str(error) and "trace" in str(error.__cause__)


def test_result_that_cannot_be_read_is_told():
    with pytest.raises(CannotTravel):
        Encoder().load(Parcel(b"junk"))
