"""Random programs run here and in workers: the same names, functions and classes must mean the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from wire_lane import Lane

# --- values come through as they are --------------------------------------------------------------------------------

_scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary(max_size=40)
)
_hashable = st.recursive(
    _scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=8
)
_values = st.recursive(
    _hashable,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(_hashable, inner, max_size=4)
        | st.tuples(inner)
        | st.sets(_hashable, max_size=4)
        | st.builds(bytearray, st.binary(max_size=50))
    ),
    max_leaves=25,
)


@pytest.fixture(scope="module")
def lane():
    with Lane() as lane:
        yield lane


def canon(value: Any) -> Any:
    """A form that compares equal exactly when types and contents are the same (NaN too)."""
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        return kind, [canon(one) for one in value]
    if isinstance(value, dict):
        return kind, [(canon(key), canon(one)) for key, one in value.items()]
    if isinstance(value, (set, frozenset)):
        return kind, sorted(repr(canon(one)) for one in value)
    return kind, repr(value)


def same(a: Any, b: Any) -> bool:
    return bool(canon(a) == canon(b))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(args=st.lists(_values, max_size=3), kwargs=st.dictionaries(st.from_regex("[a-z]{1,4}", fullmatch=True), _values))
def test_arguments_and_results_come_through_unchanged(lane, args, kwargs):
    back_args, back_kwargs = lane(lambda *a, **k: (a, k), *args, **kwargs)
    assert same(back_args, tuple(args))
    assert list(back_kwargs) == list(kwargs) and all(same(back_kwargs[k], v) for k, v in kwargs.items())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=_values, capture=_values)
def test_closures_and_instances_carry_values(lane, value, capture):
    class Local:
        def __init__(self, held: Any) -> None:
            self.held = held

        def both(self) -> Any:
            return self.held, capture

    held, captured = lane(Local(value).both)
    assert same(held, value) and same(captured, capture)
    back = lane(lambda o: o, Local(value))
    assert type(back) is Local and same(back.held, value)


# --- programs -------------------------------------------------------------------------------------------------------

_NAMES = [f"f{n}" for n in range(5)]
_DATA = [f"d{n}" for n in range(3)]


class Program(RuleBasedStateMachine):
    """A script's namespace under random edits; every call runs here and in two workers, and must agree."""

    @initialize()
    def begin(self) -> None:
        self.space: dict[str, Any] = {"__name__": "__main__"}
        first = Lane()
        self.lanes = [first, Lane(first.encoder)]
        self.waiting: list[tuple[Lane, Any]] = []
        for name in _DATA:
            self.space[name] = 0
        for name in _NAMES:
            exec(f"def {name}(n): return ({name!r}, n)", self.space)

    @rule(name=st.sampled_from(_DATA), value=st.integers(0, 3) | st.sampled_from(["a", None, 1.5]))
    def rebind(self, name: str, value: Any) -> None:
        self.space[name] = value

    @rule(
        name=st.sampled_from(_NAMES), calls=st.sampled_from(_NAMES), reads=st.sampled_from(_DATA), k=st.integers(0, 9)
    )
    def redefine(self, name: str, calls: str, reads: str, k: int) -> None:
        text = f"def {name}(n): return ({name!r}, {k}, {reads}, {calls}(n - 1) if n > 0 else n)"
        exec(text, self.space)

    @rule(
        name=st.sampled_from(_NAMES), reads=st.sampled_from(_DATA), calls=st.sampled_from(_NAMES), k=st.integers(0, 9)
    )
    def close_over(self, name: str, reads: str, calls: str, k: int) -> None:
        exec(f"def {name}(n, k={k}, g={calls}): return ({name!r}, k, {reads}, g.__name__)", self.space)

    @rule(name=st.sampled_from(_NAMES), calls=st.sampled_from(_NAMES), k=st.integers(0, 9))
    def make_class(self, name: str, calls: str, k: int) -> None:
        text = (
            f"class {name}:\n"
            f"    k = {k}\n"
            f"    def __init__(self, n): self.n = n\n"
            f"    def __repr__(self): return '{name}' + repr((self.k, self.n))\n"
            f"    def deeper(self): return {calls}(0), {name}.k\n"
        )
        exec(text, self.space)

    @rule(name=st.sampled_from(_NAMES), which=st.integers(0, 1), n=st.integers(0, 4))
    def call(self, name: str, which: int, n: int) -> None:
        wanted = self.space[name](n)
        got = self.lanes[which](self.space[name], n)
        assert repr(got) == repr(wanted)
        if isinstance(self.space[name], type):
            assert type(got) is self.space[name]
            assert repr(self.lanes[which](got.deeper)) == repr(got.deeper())

    @rule(name=st.sampled_from(_NAMES), data=st.sampled_from(_DATA), which=st.integers(0, 1), n=st.integers(0, 3))
    def submit_lambda_and_read_later(self, name: str, data: str, which: int, n: int) -> None:
        fn = eval(f"lambda: ({data}, {name}({n}))", self.space)
        lane = self.lanes[which]
        self.waiting.append((lane, (lane.encode(fn, (), {}), repr(fn()))))

    @rule()
    def run_waiting(self) -> None:
        for lane, (sent, wanted) in self.waiting:
            lane.send(*sent)
            assert repr(lane.result()) == wanted
        self.waiting.clear()

    @rule()
    def forget(self) -> None:
        dead = self.lanes[0].encoder.take_dead()
        for lane in self.lanes:
            lane.known.forget(dead)
            lane.forget(dead)

    def teardown(self) -> None:
        if hasattr(self, "lanes"):
            self.run_waiting()
            for lane in self.lanes:
                lane.close()


Program.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestProgram = Program.TestCase
