"""CPython's own tests of multiprocessing.Process, run against ours under every start method.

They come with the interpreter (package ``test``); where they are not installed, these tests are skipped. What is left
out stands in EXCLUDED, each with its reason.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import sys
import unittest

import pytest
from cpython_cases import run_case

import multitask

METHODS = ("fork", "forkserver", "spawn")
BASES = ("_TestProcess", "_TestSubclassingProcess")
EXCLUDED = {
    "_TestProcess.test_parent_process-forkserver": "kills a process whose child has yet to fetch what it was lent",
    "_TestProcess.test_parent_process-spawn": "the same: what was lent stays with the root of the family",
}

try:
    suite = importlib.import_module("test._test_multiprocessing")
except ImportError as error:
    pytest.skip(f"CPython's tests: {error}", allow_module_level=True)


def _case(base, method):
    """The tests of *base* with our names; a class that a spawned child finds here by its name."""
    context = multiprocessing.get_context(method)
    names = {
        name: staticmethod(getattr(context, name))
        for name in ("Queue", "SimpleQueue", "Pipe", "Event", "Lock", "Semaphore", "Condition", "Barrier", "Value")
    }
    names |= {
        "__module__": __name__,
        "Process": staticmethod(functools.partial(multitask.Process, start_method=method)),
        "current_process": staticmethod(multitask.current_process),
        "parent_process": staticmethod(multitask.parent_process),
        "active_children": staticmethod(multitask.active_children),
        "set_executable": staticmethod(multiprocessing.set_executable),
        "start_method": method,
        "TYPE": "processes",
        "__test__": False,  # run below
    }
    return type(f"{base}_{method}", (getattr(suite, base), unittest.TestCase), names)


for _base in BASES:
    for _method in METHODS:
        globals()[f"{_base}_{_method}"] = _case(_base, _method)


def _cases():
    for base in BASES:
        for name in unittest.TestLoader().getTestCaseNames(getattr(suite, base)):
            for method in METHODS:
                reason = EXCLUDED.get(f"{base}.{name}-{method}")
                marks = [pytest.mark.skip(reason)] if reason else []
                yield pytest.param(base, name, method, id=f"{base}.{name}-{method}", marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize(("base", "name", "method"), list(_cases()))
@pytest.mark.filterwarnings("default")
def test_case(base, name, method):
    case = getattr(sys.modules[__name__], f"{base}_{method}")(name)
    run_case(case)
