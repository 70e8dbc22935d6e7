"""CPython's own tests of queue.Queue and multiprocessing.Queue, run against every flavour of ours.

They come with the interpreter (package ``test``); where they are not installed, these tests are skipped. What is left
out stands in EXCLUDED, each with its reason. The tests of ``shutdown`` are there from Python 3.13 on.
"""

from __future__ import annotations

import importlib
import multiprocessing
import queue
import types
import unittest

import pytest
import queue_kinds

import multitask
from multitask._engine.queueing import choice

EXCLUDED = {
    "QueueTest.test_shrinking_queue": "sets maxsize, which is fixed here",
    "QueueTest.test_negative_timeout_raises_exception-shared": "as multiprocessing.Queue: a negative timeout is 0",
    "_TestQueue.test_queue_feeder_donot_stop_onexc": "what cannot be pickled raises in put: there is no feeder",
    "_TestQueue.test_queue_feeder_on_queue_feeder_error": "a hook of the stdlib's feeder thread",
    "_TestQueue.test_closed_queue_empty_exceptions": "empty() answers after close() too",
    "_TestQueue.test_no_import_lock_contention": "a script that imports multiprocessing by name",
    "TestSimpleQueue.test_closed": "looks at _reader and _writer, attributes of the stdlib's queue",
}


def _module(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"CPython's tests: {error}")


def _names(module, base):
    try:
        return unittest.TestLoader().getTestCaseNames(getattr(importlib.import_module(module), base))
    except (ImportError, AttributeError):
        return []


def _cases(module, base, kinds):
    cases = []
    for name in _names(module, base):
        for kind in kinds:
            reasons = [EXCLUDED.get(f"{base}.{name}")]
            if kind not in queue_kinds.LOCAL:
                reasons.append(EXCLUDED.get(f"{base}.{name}-shared"))
            marks = [pytest.mark.skip(reason) for reason in reasons if reason]
            cases.append(pytest.param(name, kind, id=f"{name}-{kind}", marks=marks))
    return cases


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), _cases("test.test_queue", "QueueTest", queue_kinds.FLAVOURS))
def test_queue_of_threads(name, kind):
    suite = _module("test.test_queue")
    flavour = queue_kinds.Flavour(kind)
    # The tests look the expected order up by the name of the class.
    ours = types.SimpleNamespace(
        Queue=type("Queue", (flavour.kind,), {"__slots__": ()}),
        Full=queue.Full,
        Empty=queue.Empty,
        ShutDown=multitask.ShutDown,
    )
    _run(type("QueueTest", (suite.QueueTest, unittest.TestCase), {"queue": ours}), name)


class _Ours:
    """Stands where the tests look for the module multiprocessing."""

    def __init__(self, kind: type[multitask.Queue]) -> None:
        self.Queue = self.JoinableQueue = kind
        self.SimpleQueue = multitask.SimpleQueue

    def __getattr__(self, name):
        # The classes of the tests are made here: only a fork knows them.
        context = multiprocessing.get_context("fork")
        return getattr(context, name) if hasattr(context, name) else getattr(multiprocessing, name)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "kind"), _cases("test._test_multiprocessing", "_TestQueue", queue_kinds.SHARED))
def test_queue_of_processes(name, kind, monkeypatch):
    _run_with_processes("_TestQueue", name, queue_kinds.Flavour(kind).kind, monkeypatch)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "kind"), _cases("test._test_multiprocessing", "TestSimpleQueue", queue_kinds.SHARED))
def test_simple_queue(name, kind, monkeypatch):
    flavour = queue_kinds.Flavour(kind).kind
    monkeypatch.setattr(choice, "flavour", lambda shared: flavour)
    _run_with_processes("TestSimpleQueue", name, flavour, monkeypatch)


def _run_with_processes(base, name, kind, monkeypatch):
    suite = _module("test._test_multiprocessing")
    ours = _Ours(kind)
    monkeypatch.setattr(suite, "multiprocessing", ours)
    queues = {one: staticmethod(getattr(ours, one)) for one in ("Queue", "JoinableQueue", "SimpleQueue")}
    # Only the tests' own class set-up: the module's looks for leaks in the stdlib's fork server.
    bases = (getattr(suite, base), suite.ProcessesMixin, unittest.TestCase)
    _run(type(base, bases[:1] if issubclass(bases[0], unittest.TestCase) else bases, queues), name)


def _run(case: type[unittest.TestCase], name: str) -> None:
    result = unittest.TestResult()
    unittest.TestSuite([case(name)]).run(result)
    if result.skipped:
        pytest.skip(result.skipped[0][1])
    problems = [text for _, text in result.errors + result.failures]
    assert not problems, "\n".join(problems)
    assert result.testsRun == 1
