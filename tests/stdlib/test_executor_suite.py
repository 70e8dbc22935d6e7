"""CPython's own tests of concurrent.futures' executors, run against ours.

They come with the interpreter (``test.test_concurrent_futures``); where they are not installed, these tests are
skipped. What is left out stands in EXCLUDED, each with its reason.
"""

from __future__ import annotations

import importlib
import unittest

import pytest

import multitask

# Where the classes stand: one module up to 3.11, a package from 3.12 on.
HOMES = {
    "ExecutorTest": ("executor", ""),
    "WaitTests": ("test_wait", ""),
    "AsCompletedTests": ("test_as_completed", ""),
}
EXCLUDED = {
    "ExecutorTest.test_map_buffersize_validation": "refused in the same cases, in other words",
}
KINDS = ("process", "thread")


def _find(name: str):
    for home in HOMES[name]:
        module = "test.test_concurrent_futures" + (f".{home}" if home else "")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    return None


def _cases():
    cases = []
    for name in HOMES:
        base = _find(name)
        if base is None:
            reason = "this interpreter has no test.test_concurrent_futures"
            cases.append(pytest.param(None, None, None, id=f"{name}-absent", marks=pytest.mark.skip(reason)))
            continue
        for method in unittest.TestLoader().getTestCaseNames(base):
            for kind in KINDS:
                reason = EXCLUDED.get(f"{name}.{method}")
                marks = pytest.mark.skip(reason) if reason else ()
                cases.append(pytest.param(base, method, kind, id=f"{name}.{method}-{kind}", marks=marks))
    return cases


def _executor_type(kind: str):
    def make(max_workers=None, mp_context=None, **options):
        return multitask.Executor(max_workers, kind=kind, **options)

    return staticmethod(make)


class _WithExecutor:
    worker_count = 5

    def setUp(self):
        self.executor = self.executor_type(max_workers=self.worker_count)

    def tearDown(self):
        self.executor.shutdown(wait=True)
        del self.executor


@pytest.mark.parametrize(("base", "method", "kind"), _cases())
@pytest.mark.filterwarnings("default")
def test_concurrent_futures(base, method, kind):
    case = type(base.__name__, (base, _WithExecutor, unittest.TestCase), {"executor_type": _executor_type(kind)})
    result = unittest.TestResult()
    unittest.TestSuite([case(method)]).run(result)
    if result.skipped:
        pytest.skip(result.skipped[0][1])
    problems = [text for _, text in result.errors + result.failures]
    assert not problems, "\n".join(problems)
    assert result.testsRun == 1
