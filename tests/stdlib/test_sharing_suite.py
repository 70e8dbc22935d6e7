"""CPython's own tests of Value, Array and shared ctypes, run against ours with the stdlib's Process.

They come with the interpreter (package ``test``); where they are not installed, these tests are skipped. Nothing of
them is left out.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import unittest

import pytest

import multitask
from multitask import _native, sharing

METHODS = ("fork", "forkserver", "spawn")
BASES = ("_TestValue", "_TestArray", "_TestSharedCTypes")

try:
    suite = importlib.import_module("test._test_multiprocessing")
except ImportError as error:
    pytest.skip(f"CPython's tests: {error}", allow_module_level=True)


def _case(base: str, method: str) -> type[unittest.TestCase]:
    """The tests of *base* with our names; a class that a spawned child finds here by its name."""
    context = multiprocessing.get_context(method)
    name = f"{base}_{method}"
    names = {
        "__module__": __name__,
        "Value": staticmethod(multitask.Value),
        "Array": staticmethod(multitask.Array),
        "RawValue": staticmethod(multitask.RawValue),
        "RawArray": staticmethod(multitask.RawArray),
        "Process": staticmethod(context.Process),
        "Lock": staticmethod(context.Lock),
        "start_method": method,
        "TYPE": "processes",
        "__test__": False,  # run below, with the module's names replaced
    }
    return type(name, (getattr(suite, base), unittest.TestCase), names)


for _base in BASES:
    for _method in METHODS:
        globals()[f"{_base}_{_method}"] = _case(_base, _method)


def _cases():
    for base in BASES:
        for name in unittest.TestLoader().getTestCaseNames(getattr(suite, base)):
            for method in METHODS:
                yield pytest.param(base, name, method, id=f"{base}.{name}-{method}")


@pytest.mark.parametrize("core", ["native", "portable"])
@pytest.mark.parametrize(("base", "name", "method"), list(_cases()))
@pytest.mark.filterwarnings("default")
@pytest.mark.leaves_behind("fd", "child")  # the stdlib's fork server and its resource tracker
def test_multiprocessing_sharedctypes(base, name, method, core, monkeypatch):
    if core == "native" and not _native.available:
        pytest.skip(_native.why_not)
    if core == "portable":
        monkeypatch.setattr(_native, "available", False)
    monkeypatch.setattr(suite, "Value", sharing.Value)
    monkeypatch.setattr(suite, "copy", sharing.copy)
    case = getattr(sys.modules[__name__], f"{base}_{method}")
    result = unittest.TestResult()
    unittest.TestSuite([case(name)]).run(result)
    assert not result.skipped, result.skipped
    problems = [text for _, text in result.errors + result.failures]
    assert not problems, "\n".join(problems)
    assert result.testsRun == 1
