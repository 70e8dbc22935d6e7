"""Buffers beside the pickle, several threads, pools inside tasks, and objects the standard pickler refuses."""

from __future__ import annotations

import pytest
from test_wire_globals import run_case

CASES = {
    "buffers_travel_beside_the_pickle_and_stay_writable": """
import numpy as np, pickle
def twice(a): a *= 2; return a
class Box:
    def __init__(self, a): self.a = a
class Provider(bytearray):
    def __reduce_ex__(self, protocol):
        return type(self)._again, (pickle.PickleBuffer(self),)
    @classmethod
    def _again(cls, buffer): return cls(buffer)
with lane() as lane:
    for a in (np.arange(100_000.0), np.arange(10.0), np.arange(200_000.0)[::2], np.asfortranarray(np.ones((300, 200))),
              np.arange(60_000).reshape(200, 300).T, np.array([]), np.array([object, None], dtype=object)[1:]):
        parcel, _ = lane.encoder.dump(((a,), {}))
        if a.nbytes > 100_000 and (a.flags.c_contiguous or a.flags.f_contiguous):
            assert len(parcel.buffers) == 1 and len(parcel.data) < 1000, (len(parcel.data), parcel.buffers)
            assert parcel.buffers[0].contiguous and parcel.buffers[0].nbytes == a.nbytes
        if a.dtype != object:
            b = lane(twice, a)
            assert np.array_equal(b, a * 2) and b.flags.writeable
    frozen = np.arange(100_000); frozen.flags.writeable = False
    with fails(ValueError): lane(twice, frozen)
    check(lane(lambda b: b.a.sum(), Box(np.ones(100_000))), 100_000)
    check(lane(lambda p: (type(p).__name__, len(p)), Provider(b"x" * 50_000)), ("Provider", 50_000))
    table = np.arange(2_000_000.0)
    notes = []; lane.encoder.note = notes.append
    def pick(i): return table[i]
    check([lane(pick, i) for i in range(3)], [0, 1, 2])
    assert FORKED or len(notes) == 1 and "'table'" in notes[0], notes
""",
    "many_threads_use_one_encoder": """
import concurrent.futures
class Shared:
    def __init__(self, v): self.v = v
def helper(x): return x + offset
def work(o): return helper(o.v), Shared
offset = 10
from multitask._engine.wire import Known
enc = Encoder()
def one(i):
    out = []
    for n in range(200):
        local = lambda: n + offset
        ref, here = enc.function(work), enc.function(local)
        parcel, needs = enc.dump(((Shared(i), local),  {"n": n}))
        out.append((ref.id, here.id, tuple(sorted(need[0] for need in needs))))
    return out
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = [f.result() for f in [pool.submit(one, i) for i in range(8)]]
check(len({ref for out in found for ref, _, _ in out}), 1)
check(len({here for out in found for _, here, _ in out}), 8 * 200)
with Lane(enc) as lane:
    check(lane(work, Shared(3)), (13, Shared))
""",
    "pool_inside_a_task": """
def inner(o): o.v += K; return o, Inner
class Inner:
    def __init__(self, v): self.v = v
K = 5
def outer(path):
    import sys
    sys.path[:] = path
    from wire_lane import Lane
    born = type("Born", (), {"x": 7})
    with Lane() as nested:
        o, cls = nested(inner, Inner(1))
        assert type(o) is Inner and cls is Inner, (type(o), cls)
        assert nested(lambda: K) == 5
        assert type(nested(lambda b: b, born())) is born
        local = lambda: K + 1
        assert nested(local) == 6
        return o, born(), local
with lane() as lane:
    o, born, local = lane(outer, sys.path)
    check((type(o) is Inner, o.v, born.x, local()), (True, 6, 7, 6))
""",
    "what_the_standard_pickler_refuses": """
import types, typing, enum, weakref, collections, functools, operator, logging, re, inspect
mod = types.ModuleType("made_up"); mod.x = 3
exec("def in_made_up(): return x", mod.__dict__)
sys.modules["made_up"] = mod
T = typing.TypeVar("T", bound=int)
P = typing.ParamSpec("P")
ns = {"y": 4}
exec("def in_dict(): return y\\ndef other(): global y; y += 1; return y", ns)
log = logging.getLogger("wire")
dyn = type("Dyn", (dict,), {"m": lambda self: len(self)})
d = {}
def uses(): return mod.x, mod.in_made_up(), ns_f(), log.name, T.__name__
ns_f = ns["in_dict"]
def hints(): return typing.get_type_hints(annotated)
def annotated(a: T, b: typing.Callable[P, "list[T]"]) -> None: ...
class Desc:
    def __set_name__(self, owner, name): self.name = name
    def __get__(self, o, t=None): return self.name if o is not None else self
class UsesDesc: field = Desc()
def build(cls_name): return getattr(sys.modules["__main__"], cls_name, None)
with lane() as lane:
    check(lane(uses), (3, 3, 4, "wire", "T"))
    check([lane(ns["other"]), lane(ns["other"]), lane(ns_f)], [5, 6, 6])
    check(lane(lambda: mod.__name__), "made_up")
    check(lane(lambda o: (o.m(), type(o) is dyn), dyn(a=1)), (1, True))
    for o in ({}.keys, d.keys(), {1: 2}.values(), types.MappingProxyType({1: 2}), collections.OrderedDict(a=1).keys(),
              re.compile("a"),
              operator.itemgetter(1), range(3), slice(1, 2), Ellipsis, NotImplemented, type(None), type(...),
              types.FunctionType,
              int | str, list[int], typing.List[int], typing.Optional[int], collections.deque([1]), type, object,
              dict.fromkeys, str.join,
              property(lambda self: 1), inspect.signature(annotated), types.SimpleNamespace(a=1),
              functools.partial(print, 1),
              functools.partial(build, "x"), uses.__code__, iter([1, 2]), memoryview):
        back = lane(lambda o: o, o)
        check(type(back), type(o))
        unequal = ("list_iterator", "dict_values", "itemgetter", "builtin_function_or_method")
        if not isinstance(o, (property, inspect.Signature, functools.partial)) and type(o).__name__ not in unequal:
            check(back, o)
    check(lane(lambda: UsesDesc().field), "field")
    with fails(CannotTravel, "memoryview"): lane(lambda o: o, memoryview(b"x"))
    check(lane(lambda: T.__bound__), int)
    assert lane(lambda t: t is T, T)
    class Color(enum.Enum):
        A = 1
        def f(self): return Color.A is self
    check(lane(lambda c: (c.f(), c is Color.A), Color.A), (True, True))
    import ctypes
    class Struct(ctypes.Structure):
        _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]
        def total(self): return self.x + self.y
    check(lane(lambda: Struct(1, 2.5).total()), 3.5)
    check(lane(lambda s: s.total(), Struct(1, 2.5)), 3.5)
""",
    "constants_that_pickle_as_their_name": """
class _Missing:
    def __reduce__(self): return "MISSING"
class _Slots:
    __slots__ = ()
    def __reduce__(self): return "SLOTS"
    def __repr__(self): return "SLOTS!"
MISSING = _Missing(); MISSING.extra = 5
SLOTS = _Slots()
def task(x=MISSING): return x is MISSING, MISSING.extra
def given(x, y): return x is MISSING, y is SLOTS, repr(SLOTS)
with lane() as lane:
    check(lane(task), (True, 5))
    check(lane(given, MISSING, SLOTS), (True, True, "SLOTS!"))
    check(lane(given, [MISSING], "__main__"), (False, False, "SLOTS!"))
    assert lane(lambda: MISSING) is MISSING
    assert lane(lambda o: o, [SLOTS])[0] is SLOTS
""",
    "a_metaclass_and_inheritance_in_cycles": """
class Tree:
    kinds = []
    default: "Leaf" = None
    def leaf(self): return Leaf()
class Leaf(Tree):
    parent = Tree
    def up(self): return super().leaf()
Tree.kinds += [Tree, Leaf]; Tree.default = Leaf(); Tree.default.owner = Tree
class M(type):
    def __call__(cls, *a): return super().__call__(*a)
    def __instancecheck__(cls, o): return type(o).__name__ == "Odd" or super().__instancecheck__(o)
    def __eq__(cls, o): return cls is o
    def __hash__(cls): return 7
    def __setattr__(cls, name, value): raise TypeError("sealed")
    @property
    def meta_prop(cls): return cls.__name__
class Odd(metaclass=M): pass
class Even(Odd): pass
class Need:
    def __init_subclass__(cls, /, must, **kw): cls.must = must
class Has(Need, must=3): pass
class Multi(Leaf, Has, must=4):
    def up(self): return super().up(), self.must
def probe():
    leaf = Leaf().up().__class__ is Leaf
    return Tree.kinds == [Tree, Leaf], type(Tree.default) is Leaf, Tree.default.owner is Tree, leaf, Multi().up()[1]
with lane() as lane:
    check(lane(probe), (True, True, True, True, 4))
    check(lane(lambda o: type(o).__mro__[1] is Leaf, Multi()), True)
    assert type(lane(Multi)) is Multi
    check(lane(lambda: (isinstance(Odd(), Even), Even.meta_prop, Has.must)), (True, "Even", 3))
    assert lane(lambda: Even) is Even
    with fails(TypeError): lane(lambda: setattr(Odd, "x", 1))
""",
}


@pytest.mark.parametrize("fork", [False, True], ids=["fresh", "forked"])
@pytest.mark.parametrize("name", CASES)
def test_in_a_worker(name, fork, tmp_path):
    run_case(f"FORKED = {fork}\n" + CASES[name], fork, tmp_path)
