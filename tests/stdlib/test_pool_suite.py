"""CPython's own tests of multiprocessing.Pool, run against ours.

They come with the interpreter (package ``test``); where they are not installed, these tests are skipped. What is
left out stands in EXCLUDED, each with its reason: a row of docs/differences.md, or an inside of the stdlib's pool.
"""

from __future__ import annotations

import importlib
import multiprocessing
import unittest

import pytest

import multitask

EXCLUDED = {
    "_TestPool.test_make_pool": "looks at _pool, an attribute of the stdlib's pool",
    "_TestPool.test_map_unplicklable": "what cannot be pickled raises CannotTravel, which names the path to it",
    "_TestPool.test_resource_warning": "sets _state; a pool dropped unclosed finishes its work instead of warning",
    "_TestPool.test_terminate-thread": "a running thread cannot be stopped: join() waits for its sleep of 300 s",
    "_TestPool.test_traceback": "the traceback from the worker is a multitask.errors.RemoteTraceback",
    "_TestPoolWorkerErrors.test_unpickleable_result": "CannotTravel instead of MaybeEncodingError; lambdas travel",
    "_TestPoolWorkerLifetime.test_pool_worker_lifetime": "looks at _pool and calls _repopulate_pool",
    "_TestPoolWorkerLifetime.test_worker_finalization_via_atexit_handler_of_multiprocessing": (
        "a script that imports multiprocessing by name; the exit of ours is tested in tests/faults"
    ),
}


class _Ours:
    """Stands where the tests look for the module multiprocessing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getattr__(self, name):
        return getattr(multiprocessing, name)

    def Pool(self, *args, **kwargs):
        return multitask.Pool(*args, kind=self.kind, **kwargs)


def _pool_cases():
    """(id, test class, method) of the stdlib's tests that apply."""
    try:
        suite = importlib.import_module("test._test_multiprocessing")
    except ImportError as error:
        return [pytest.param(None, None, None, id="absent", marks=pytest.mark.skip(f"CPython's tests: {error}"))]
    cases = []
    for base, kinds in (
        (suite._TestPool, ("process", "thread")),
        (suite._TestPoolWorkerErrors, ("process",)),
        (suite._TestPoolWorkerLifetime, ("process",)),
    ):
        for name in unittest.TestLoader().getTestCaseNames(base):
            for kind in kinds:
                label = f"{base.__name__}.{name}"
                reason = EXCLUDED.get(label) or EXCLUDED.get(f"{label}-{kind}")
                marks = pytest.mark.skip(reason) if reason else ()
                cases.append(pytest.param(base, name, kind, id=f"{label}-{kind}", marks=marks))
    return cases


@pytest.mark.parametrize(("base", "name", "kind"), _pool_cases())
@pytest.mark.filterwarnings("default")
def test_multiprocessing_pool(base, name, kind, monkeypatch):
    suite = importlib.import_module("test._test_multiprocessing")
    ours = _Ours(kind)
    monkeypatch.setattr(suite, "multiprocessing", ours)
    mixin = suite.ProcessesMixin if kind == "process" else suite.ThreadsMixin
    case = type(base.__name__, (base, mixin, unittest.TestCase), {"Pool": staticmethod(ours.Pool)})
    # Only the tests' own class set-up: the module's looks for leaks in the stdlib's fork server.
    _run(case, name)


def _run(case: type[unittest.TestCase], name: str) -> None:
    result = unittest.TestResult()
    unittest.TestSuite([case(name)]).run(result)
    if result.skipped:
        pytest.skip(result.skipped[0][1])
    problems = [text for _, text in result.errors + result.failures]
    assert not problems, "\n".join(problems)
    assert result.testsRun == 1
