"""CPython's own tests of threading.Thread, run against ours.

They come with the interpreter (package ``test``); where they are not installed, these tests are skipped. They see a
module ``threading`` whose Thread is ours. Left out are those whose programs import the real one in a process of their
own.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import unittest

import pytest
from cpython_cases import run_case

from multitask import Thread

CLASSES = ("ThreadTests", "ThreadingExceptionTests", "ExceptHookTests", "ThreadRunFail")
EXCLUDED = {
    "ThreadTests.test_no_refcycle_through_target": "an error that is kept for result() holds the frames it passed",
}


class Threading:
    """The module with our Thread; everything else is the real one's."""

    Thread = Thread

    def __getattr__(self, name):
        return getattr(threading, name)

    def __setattr__(self, name, value):
        setattr(threading, name, value)

    def __delattr__(self, name):
        delattr(threading, name)


@pytest.fixture
def module(monkeypatch):
    spec = importlib.util.find_spec("test.test_threading")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "threading", Threading())
    spec.loader.exec_module(module)
    monkeypatch.undo()
    assert issubclass(module.TestThread, Thread)
    return module


def _cases():
    try:
        import test.test_threading as theirs
    except ImportError:
        return
    for name in CLASSES:
        if hasattr(theirs, name):
            for test in unittest.TestLoader().getTestCaseNames(getattr(theirs, name)):
                reason = EXCLUDED.get(f"{name}.{test}")
                yield pytest.param(name, test, marks=[pytest.mark.skip(reason)] if reason else [])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "test"), list(_cases()))
def test_case(module, name, test):
    case = getattr(module, name)(test)
    run_case(case)
