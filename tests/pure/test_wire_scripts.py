"""Scripts as users run them (a file, ``python -c``, standard input), with a real worker, fresh or forked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = """
import sys
from wire_lane import Lane
FORK = {fork}
def check(got, wanted):
    assert got == wanted, (got, wanted)
"""


@pytest.fixture(params=["file", "-c", "stdin"])
def run_script(request, tmp_path):
    def run(text: str, fork: bool = False) -> str:
        text = PRELUDE.format(fork=fork) + text
        support = Path(__file__).parents[1] / "support"
        env = {"PYTHONPATH": str(support), "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-W", "error"]
        given = None
        if request.param == "file":
            path = tmp_path / "script.py"
            path.write_text(text)
            command += [str(path)]
        elif request.param == "-c":
            command += ["-c", text]
        else:
            command += ["-"]
            given = text
        done = subprocess.run(command, input=given, text=True, capture_output=True, env=env, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


SCRIPTS = {}


def script(text: str) -> str:
    return text


FUNCTIONS = script("""
import functools, os.path, math
import xml.etree.ElementTree
RATE = 3
def double(x): return 2 * x
def chain(x): return double(x) + RATE
def fact(n): return 1 if n < 2 else n * fact(n - 1)
def even(n): return True if n == 0 else odd(n - 1)
def odd(n): return False if n == 0 else even(n - 1)
def with_defaults(a, b=double, *, c=fact): return b(a) + c(a)
def logged(fn):
    @functools.wraps(fn)
    def inner(*args, **kwargs):
        return ("logged", fn.__name__, fn(*args, **kwargs))
    return inner
@logged
def decorated(x, y=1): "doc of decorated"; return x + y
def paths(): return os.path.join("a", "b"), math.sqrt(16)
def parse(text): return xml.etree.ElementTree.fromstring(text).tag
def annotated(x: "int", *, y: int = 2) -> str: return str(x + y)
annotated.extra = [1, 2]
def whole(f): return f.__name__, f.__qualname__, f.__module__, f.__doc__, f.__annotations__, f.__dict__
def make_counter():
    n = 0
    def inc():
        nonlocal n
        n += 1
        return n
    def get(): return n
    return inc, get
def both(inc, get): inc(); inc(); return get()
def self_closing():
    def walk(n): return 0 if n == 0 else 1 + walk(n - 1)
    return walk
def generate(n):
    yield from range(n)
async def co(): return 5
def run_co():
    import asyncio
    return asyncio.run(co())
class Box:
    def __init__(self, v): self.v = v
    def times(self, n): return self.v * n
    @classmethod
    def make(cls, v): return cls(v)
    @staticmethod
    def plain(v): return -v
@functools.lru_cache(maxsize=None)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def cached_calls(): fib(20); return fib.cache_info().hits > 0
@functools.singledispatch
def kind(x): return "object"
@kind.register
def _(x: int): return "int"
@kind.register(Box)
def _(x): return "box"
with Lane(fork=FORK) as lane:
    check(lane(chain, 4), 11)
    check(lane(fact, 5), 120)
    check(lane(even, 7), False)
    check(lane(with_defaults, 3), 12)
    check(lane(decorated, 1, y=5), ("logged", "decorated", 6))
    check(lane(decorated, 1), ("logged", "decorated", 2))
    check(lane(paths), ("a/b", 4.0))
    check(lane(parse, "<t/>"), "t")
    notes = {"x": "int", "y": int, "return": str}
    check(lane(whole, annotated), ("annotated", "annotated", "__main__", None, notes, {"extra": [1, 2]}))
    name, qual, module, doc, _n, more = lane(whole, decorated)
    check((name, doc), ("decorated", "doc of decorated"))
    check(lane(lambda: list(generate(4))), [0, 1, 2, 3])
    check(lane(run_co), 5)
    check(lane(both, *make_counter()), 2)
    inc, get = make_counter()
    check([lane(inc), lane(inc), lane(get)], [1, 2, 2])   # the cell is one in the worker
    check(get(), 0)
    inc(); inc(); inc()
    check(lane(get), 3)
    check(lane(self_closing(), 6), 6)
    check(lane(functools.partial(with_defaults, c=double), 3), 12)
    check(lane(Box(3).times, 4), 12)
    check(lane(Box.make, 4).v, 4)
    check(lane(Box.plain, 4), -4)
    check(type(lane(Box, 5)) is Box, True)
    check(lane(fib, 30), 832040)
    check(lane(cached_calls), True)
    check([lane(kind, 1), lane(kind, "x"), lane(kind, Box(1))], ["int", "object", "box"])
    check(lane(len, [1, 2]), 2)
    check(lane(str.upper, "x"), "X")
    check(lane("-".join, ["a", "b"]), "a-b")
    check(lane(int, "12"), 12)
    for f in (lambda: 7, fact, chain):
        again = lane(lambda g: g, f)
        if f.__name__ != "<lambda>": assert again is f, again
        else: check(again(), 7)
    keep = lambda: 8
    assert lane(lambda g: g, keep) is keep
    check(lane(lambda: (lambda z: z + RATE))(1), 4)
    check([lane(lambda: k) for k in range(3)], [0, 1, 2])
    sent = [lane.encode(lambda: k, (), {}) for k in range(5)]
    for one in sent: lane.send(*one)
    check([lane.result() for _ in sent], [0, 1, 2, 3, 4])
""")


CLASSES = script("""
import abc, collections, dataclasses, enum, functools, typing
T = typing.TypeVar("T")
class Base:
    registry = {}
    def __init_subclass__(cls, tag, **kw):
        super().__init_subclass__(**kw)
        Base.registry[tag] = cls
    def hello(self): return "base"
class Child(Base, tag="child"):
    def hello(self): return "child+" + super().hello()
class Meta(type):
    made = []
    def __new__(m, name, bases, ns, *, flavour="plain"):
        cls = super().__new__(m, name, bases, ns)
        cls.flavour = flavour
        Meta.made.append(name)
        return cls
    def __init__(cls, name, bases, ns, *, flavour="plain"): super().__init__(name, bases, ns)
    def __len__(cls): return 42
class Metal(metaclass=Meta, flavour="hot"): pass
class Slotted:
    __slots__ = ("a", "__b", "__weakref__")
    def __init__(self): self.a = 1; self.__b = 2
    def total(self): return self.a + self.__b
class SlottedChild(Slotted):
    __slots__ = "c"
@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
    tags: list = dataclasses.field(default_factory=list)
    Kind: typing.ClassVar[int] = 3
@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Frozen:
    a: int
    b: str = "b"
class Color(enum.Enum):
    RED = 1
    GREEN = 2
    ROUGE = 1
    def shout(self): return self.name + "!"
class Num(enum.IntEnum):
    ONE = 1
    TWO = enum.auto()
class Perm(enum.Flag):
    R = enum.auto()
    W = enum.auto()
class Text(str, enum.Enum):
    A = "a"
class Planet(enum.Enum):
    EARTH = (1.0, 2.0)
    def __init__(self, mass, radius): self.mass = mass; self.radius = radius
    @property
    def g(self): return self.mass / self.radius
Pair = collections.namedtuple("Pair", "left right")
class Typed(typing.NamedTuple):
    n: int
    s: str = "s"
class Movie(typing.TypedDict):
    name: str
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Shape):
    def area(self): return 4
@Shape.register
class Alien: pass
class Stack(typing.Generic[T]):
    def __init__(self): self.items: list[T] = []
    def push(self, x: T) -> "Stack[T]": self.items.append(x); return self
class Quack(typing.Protocol):
    def quack(self) -> str: ...
class Self:
    n = 0
    lock = __import__("threading").Lock()
    def me(self): return Self, type(self) is Self, __class__ is Self
    @property
    def p(self): return self._p
    @p.setter
    def p(self, v): self._p = v
    @functools.cached_property
    def cp(self): return 99
    @functools.lru_cache
    def cached(self): return 1
    @functools.singledispatchmethod
    def sd(self, x): return "o"
    @sd.register
    def _(self, x: int): return "i"
    class Inner:
        def name(self): return "inner"
    def __eq__(self, o): return type(o) is Self
    def __hash__(self): return 1
class Dyn:
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return name
class Reduced:
    def __init__(self, v): self.v = v
    def __reduce__(self): return (Reduced, (self.v,))
UserId = typing.NewType("UserId", int)
def local():
    class Local:
        def me(self): return Local
    return Local
Local = local()
def probe(o): return type(o).__name__
def ident(x): return x
same_class = lambda o, c: type(o) is c
def lens(): return len(Metal), Metal.flavour
def abstract():
    try: Shape()
    except TypeError: return issubclass(Alien, Shape), isinstance(Alien(), Shape)
def fields():
    found = [(f.name, f.default is dataclasses.MISSING) for f in dataclasses.fields(Point)]
    return found, dataclasses.replace(Point(1), x=5)
def registry(): return sorted(Base.registry), Base.registry["child"] is Child
def new_class():
    class Fresh:
        def v(self): return 3
    return Fresh, Fresh()
def placeholder(): return Self.lock.acquire()
def colors(): return Color.RED.shout(), Color(2) is Color.GREEN, Color.ROUGE is Color.RED, list(Color), Color["GREEN"]
with Lane(fork=FORK) as lane:
    objects = [Child(), Slotted(), SlottedChild(), Point(1, 2), Frozen(3), Color.RED, Num.TWO, Perm.R | Perm.W, Text.A,
               Planet.EARTH, Pair(1, 2), Typed(1), Square(), Alien(), Stack().push(1), Self(), Self.Inner(), Dyn(),
               Reduced(4), Local(), Movie(name="x")]
    for o in objects:
        back = lane(ident, o)
        assert type(back) is type(o), (type(back), type(o))
        check(lane(same_class, o, type(o)), True)
        if isinstance(o, (Point, Frozen, enum.Enum, tuple)): check(back, o)
    backs = lane(ident, objects)
    assert [type(b) for b in backs] == [type(o) for o in objects]
    check(backs[1].total(), 3)
    check(lane(Child().hello), "child+base")
    check(lane(registry), (["child"], True))
    check(Base.registry, {"child": Child}); check(Meta.made, ["Metal"])
    check(lane(lambda: Meta.made), ["Metal"])
    check(lane(lens), (42, "hot"))
    check(lane(Slotted.total, Slotted()), 3)
    check(lane(lambda: hasattr(Slotted(), "__dict__")), False)
    check(lane(fields), ([("x", True), ("y", False), ("tags", True)], Point(5)))
    check(lane(lambda p: (p < Frozen(9), p.b), Frozen(3)), (True, "b"))
    check(lane(colors), ("RED!", True, True, [Color.RED, Color.GREEN], Color.GREEN))
    check(lane(lambda: (Num.TWO + 1, Perm.R | Perm.W, Perm(3), Text.A.upper())), (3, Perm.R | Perm.W, Perm(3), "A"))
    check(lane(lambda: (Planet.EARTH.g, Planet((1.0, 2.0)) is Planet.EARTH)), (0.5, True))
    check(lane(abstract), (True, True))
    check(lane(lambda: Pair(1, right=2)._asdict()), {"left": 1, "right": 2})
    check(lane(lambda: Typed(4)), Typed(4))
    check(lane(lambda: Movie(name="m")), {"name": "m"})
    check(lane(lambda: (Stack[int]().push(3).items, UserId(4))), ([3], 4))
    assert lane(lambda: Stack[int]) == Stack[int]
    check(lane(Self().me), (Self, True, True))
    def use(s):
        s.p = 4
        return s.p, s.cp, s.cached(), s.sd(1), s.sd("x"), s.Inner().name()
    check(lane(use, Self()), (4, 99, 1, "i", "o", "inner"))
    if not FORK:
        try: lane(placeholder)
        except Exception as e: assert "Self.lock" in str(e) and type(e).__name__ == "CannotTravel", repr(e)
        else: raise AssertionError
    # class attributes are untouched by results, a worker's class state is untouched by later arguments
    def bump(o): type(o).n += 1; return o, type(o).n
    o, n = lane(bump, Self()); check((type(o) is Self, n, Self.n), (True, 1, 0))
    Self.n = 50
    check(lane(bump, o)[1], 2)
    (F1, f1), (F2, f2) = lane(new_class), lane(new_class)
    assert type(f1) is F1 and f1.v() == 3 and F1 is not F2
    check(lane(lambda a, b: (type(a) is type(b), a.v()), f1, F1()), (True, 3))
    def make_global():
        global Made
        class Made:
            pass
        return Made()
    def again(): return Made()
    if not FORK:
        a, b = lane(make_global), lane(again)
        assert type(a) is type(b)
    try: Base.__init_subclass__
    except AttributeError: raise
    assert lane(lambda: Base.__init_subclass__.__name__) == "__init_subclass__"
""")


@pytest.mark.parametrize("fork", [False, True])
@pytest.mark.parametrize("text", [FUNCTIONS, CLASSES], ids=["functions", "classes"])
def test_script_runs_the_same_in_a_worker(run_script, text, fork):
    run_script(text, fork)
