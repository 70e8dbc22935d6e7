"""G11: what a script defines works in its workers, run in every way and under every start method."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripts import CHANNELS, METHODS, run

pytestmark = pytest.mark.timeout(90)

# As people write it: no guard, everything in the file itself.
PLAIN = """
import sys, collections
import multitask
METHOD = sys.argv[1]
RATE = 3
state = None

class Point:
    made = 0
    registry = []
    def __init__(self, x):
        self.x = x
        Point.made += 1
    def __eq__(self, other): return type(other) is Point and other.x == self.x

class Broken(Exception):
    def __init__(self, first, second):
        super().__init__(first)
        self.second = second

def double(x): return 2 * x
def uses(x): return double(x) + RATE
def adder(n):
    def add(x): return x + n
    return add
def move(point):
    Point.registry.append(point)
    return Point(point.x + 1)
def breaks(x): raise Broken(x, "second")
def set_up(value):
    global state
    state = value
def tell(_=None): return state

with multitask.Pool(2, set_up, ("ready",), start_method=METHOD) as pool:
    assert pool.map(uses, range(100)) == [2 * x + 3 for x in range(100)]
    assert pool.submit(lambda x: x * RATE, 5).result() == 15
    assert list(pool.imap(adder(10), range(3))) == [10, 11, 12]
    tasks = [pool.submit(lambda: k) for k in range(3)]
    assert [task.result() for task in tasks] == [0, 1, 2]
    point = Point(1)
    made, attributes = Point.made, dict(vars(Point))
    attributes["__slotnames__"] = []  # what copyreg notes on a class whose instances are pickled
    back = pool.submit(move, point).result()
    assert type(back) is Point and back == Point(2)
    assert Point.made == made + 1 and Point.registry == []
    assert {**vars(Point), "made": made} == {**attributes}
    try: pool.submit(breaks, 1).result()
    except Broken as error: assert (error.args, error.second) == ((1,), "second"), error
    else: raise AssertionError
    assert set(pool.map(tell, range(40), chunksize=1)) == {"ready"}
print("fine")
"""


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["file", "-c", "stdin"])
def test_a_script_without_a_guard_works(tmp_path: Path, how: str, method: str, channel: str) -> None:
    script = run(tmp_path, PLAIN, method, how=how, channel=channel)
    assert (script.out, script.err) == ("fine\n", "")


CHANGES = """
import sys
import multitask
number, things = 1, [1]
def look(_=None): return number, list(things)
with multitask.Pool(2, start_method=sys.argv[1]) as pool:
    looks = lambda: set(map(repr, pool.map(look, range(20), chunksize=1)))
    assert looks() == {"(1, [1])"}
    number = 2
    assert looks() == {"(2, [1])"}, "bound anew: seen by what is submitted later"
    things.append(2)
    assert looks() == {"(2, [1])"}, "changed in place: not seen"
    things = things + [3]
    assert looks() == {"(2, [1, 2, 3])"}, "bound anew"
    before = pool.submit(look)
    number = 3
    assert before.result()[0] == 2, "what was submitted before keeps what was bound then"
    def look(_=None): return "another function of that name"
    assert looks() == {"'another function of that name'"}
print("fine")
"""


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("method", METHODS)
def test_a_global_bound_anew_is_seen_and_one_changed_in_place_is_not(tmp_path: Path, method: str, channel: str) -> None:
    script = run(tmp_path, CHANGES, method, channel=channel)
    assert (script.out, script.err) == ("fine\n", "")


OWN = """
import sys
import multitask
count = 0
def begin():
    global count
    count = 100
def bump():
    global count
    count += 1
    return count
with multitask.Pool(1, begin, start_method=sys.argv[1]) as pool:
    assert [pool.submit(bump).result() for _ in range(3)] == [101, 102, 103]
    assert count == 0
print("fine")
"""


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("method", METHODS)
def test_a_global_that_the_initializer_sets_is_read_and_changed_by_later_tasks(
    tmp_path: Path, method: str, channel: str
) -> None:
    script = run(tmp_path, OWN, method, channel=channel)
    assert (script.out, script.err) == ("fine\n", "")


LARGE = """
import sys, time
import multitask
MB = 1 << 20
with multitask.Pool(1, start_method=sys.argv[1]) as pool:
    pool.submit(abs, 1).result()
    data = bytes(200 * MB)  # made after the fork
    def use(i): return data[i] + len(data)
    begun = time.monotonic()
    assert pool.submit(use, 0).result() == 200 * MB
    first = time.monotonic() - begun
    begun = time.monotonic()
    assert all(pool.submit(use, i).result() == 200 * MB for i in range(20))
    others = time.monotonic() - begun
print(f"{first:.3f} {others:.3f}")
"""


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("method", METHODS)
def test_a_large_global_is_carried_once_with_a_note(tmp_path: Path, method: str, channel: str) -> None:
    script = run(tmp_path, LARGE, method, channel=channel)
    assert script.process.returncode == 0, script.err
    first, others = map(float, script.out.split())
    print(f"{method}, {channel}: first call {first:.3f} s, 20 more {others:.3f} s")
    assert others < max(first, 0.2), "carried with each call it would take many times as long"
    assert script.err == (
        "multitask: the global 'data' (210 MB) is carried to each worker once; "
        "changes made to it in place are not seen there\n"
    )


CANNOT = """
import sys, threading
import multitask
lock = threading.Lock()
def touches(): return lock.acquire()
def may_touch(really): return lock.acquire() if really else "untouched"
with multitask.Pool(1, start_method=sys.argv[1]) as pool:
    pool.submit(abs, 1).result()
    late = {"deep": [1, {"lock": threading.Lock()}]}  # made after the fork
    def touches_late(): return late["deep"]
    def never(): return "fine" if True else late
    assert pool.submit(never).result() == "fine"
    try: print(pool.submit(touches_late).result())
    except multitask.errors.CannotTravel as error: print("1:", error)
    try: print(pool.submit(len, [[1], {"key": (0, threading.Lock())}]).result())
    except multitask.errors.CannotTravel as error: print("2:", error)
    def returns(): return {"a": [threading.Lock()]}
    try: print(pool.submit(returns).result())
    except multitask.errors.CannotTravel as error: print("3:", error)
    if sys.argv[1] != "fork":
        assert pool.submit(may_touch, False).result() == "untouched"
        try: print(pool.submit(touches).result())
        except multitask.errors.CannotTravel as error: print("4:", error)
    def closes_over():
        held = threading.Lock()
        return lambda: held
    try: print(pool.submit(closes_over()).result())
    except multitask.errors.CannotTravel as error: print("5:", error)
    assert pool.submit(abs, -1).result() == 1
"""


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_travel_is_named_by_its_path(tmp_path: Path, method: str) -> None:
    script = run(tmp_path, CANNOT, method)
    assert script.process.returncode == 0, script.err
    told = {part[0]: part for part in re.split(r"^(?=\d: )", script.out, flags=re.MULTILINE) if part}
    print(script.out)
    assert "late" in told["1"] and "'deep'" in told["1"] and "'lock'" in told["1"]
    assert "[1]['key'][1]" in told["2"]
    assert "['a'][0]" in told["3"]
    assert method == "fork" or "lock" in told["4"]
    assert "held" in told["5"]


MODULE = """
import multitask
pool = multitask.Pool(2, start_method={method!r})
OFFSET = 7
def work(x): return x + OFFSET
def results(): return pool.map(work, range(5))
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_at_module_level_without_with(tmp_path: Path, method: str) -> None:
    (tmp_path / "module_with_pool.py").write_text(MODULE.format(method=method))
    script = run(tmp_path, "import module_with_pool\nprint(module_with_pool.results())", method)
    if method == "fork":
        # As with the standard library: the workers were forked from a module that was half read.
        assert "'module_with_pool'" in script.err and "'work'" in script.err
        assert "make the pool below what its module defines" in script.err
    else:
        assert (script.out, script.err) == ("[7, 8, 9, 10, 11]\n", "")
