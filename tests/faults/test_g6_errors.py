"""G6: whatever a task or callback raises or returns shows up where it was asked for, and the pool lives."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
from fault_work import add_one
from faults import METHODS, VARIANTS, ended, variant, workers

from multitask.errors import CannotTravel

pytestmark = pytest.mark.timeout(60)


class Odd(BaseException):
    pass


def raises(kind: type[BaseException], *args: Any) -> None:
    raise kind(*args)


def raises_group() -> None:
    raise BaseExceptionGroup("several", [ValueError(1), KeyboardInterrupt(), Odd("odd")])


def exits() -> None:
    sys.exit(3)


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


def raises_hostile() -> None:
    raise Hostile


def raises_endless_cause() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def fails_here() -> None:
    raise OSError("only here")


class FailsHere:
    """Arrives nowhere: its reduction raises, or what it makes there does."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __reduce__(self) -> Any:
        if self.when == "pickled":
            raise OSError("not to be pickled")
        return fails_here, ()


class SwallowsAll:
    def __reduce__(self) -> Any:
        raise SystemExit(9)


def make(cls: type, *args: Any) -> Any:
    return cls(*args)


def recursive() -> Any:
    return recursive()


def deep() -> Any:
    out: list[Any] = []
    for _ in range(100_000):
        out = [out]
    return out


CALLS: dict[str, tuple[type[BaseException], Any, tuple[Any, ...]]] = {
    "SystemExit": (SystemExit, exits, ()),
    "KeyboardInterrupt": (KeyboardInterrupt, raises, (KeyboardInterrupt,)),
    "GeneratorExit": (GeneratorExit, raises, (GeneratorExit, 1)),
    "BaseException": (Odd, raises, (Odd, "odd")),
    "StopIteration": (StopIteration, raises, (StopIteration, 1)),
    "a group": (BaseExceptionGroup, raises_group, ()),
    "MemoryError": (MemoryError, raises, (MemoryError,)),
    "RecursionError": (RecursionError, recursive, ()),
    "an error that resists": (Exception, raises_hostile, ()),
    "a ring of causes": (ValueError, raises_endless_cause, ()),
    "a result that is not pickled": (CannotTravel, make, (FailsHere, "pickled")),
    "a result that is not rebuilt": (CannotTravel, make, (FailsHere, "rebuilt")),
    "a result whose pickling exits": (BaseException, make, (SwallowsAll,)),
    "a result too deep": (CannotTravel, deep, ()),
    "an argument that is not rebuilt": (CannotTravel, make, (FailsHere("rebuilt"), 1)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_error_shows_up_in_get_and_the_same_worker_goes_on(name: str) -> None:
    with variant(name) as make_pool, ended(make_pool(1)) as pool:
        assert pool.submit(add_one, 1).result(30) == 2
        before = workers(pool)
        for what, (kind, fn, args) in CALLS.items():
            error = pool.submit(fn, *args).exception(30)
            assert isinstance(error, kind), (what, error.__class__)
            assert pool.submit(add_one, 1).result(30) == 2, what
        assert workers(pool) == before


@pytest.mark.parametrize("name", VARIANTS)
def test_they_show_up_in_map_and_imap_too(name: str) -> None:
    with variant(name) as make_pool, ended(make_pool(2)) as pool:
        for what, (kind, fn, args) in CALLS.items():
            with pytest.raises(kind):
                pool.starmap(fn, [args])
            results = pool.imap(_Call(fn), [args, args])
            for _ in range(2):
                with pytest.raises(kind):
                    next(results)
            assert pool.map(add_one, [1]) == [2], what


class _Call:
    def __init__(self, fn: Any) -> None:
        self.fn = fn

    def __call__(self, args: Any) -> Any:
        return self.fn(*args)


@pytest.mark.parametrize("name", [f"native-{method}" for method in METHODS] + ["pipe-fork"])
def test_a_callback_that_raises_anything_harms_nobody(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: seen.append(hook.exc_type))
    kinds = [ValueError, SystemExit, KeyboardInterrupt, Odd, GeneratorExit]
    done = threading.Event()

    def callback(kind: type[BaseException]) -> Any:
        def call(_: object) -> None:
            raise kind("in a callback")

        return call

    with variant(name) as make_pool, ended(make_pool(2)) as pool:
        for kind in kinds:
            assert pool.apply_async(add_one, (1,), callback=callback(kind)).get(30) == 2
            failed = pool.apply_async(raises, (OSError,), error_callback=callback(kind))
            assert isinstance(failed.exception(30), OSError)
            failed.wait(30)
        pool.apply_async(add_one, (1,), callback=lambda _: done.set())
        assert done.wait(30)
        assert pool.map(add_one, [1]) == [2]
    assert seen == [kind for kind in kinds for _ in range(2)]
