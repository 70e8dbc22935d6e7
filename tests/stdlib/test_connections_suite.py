"""CPython's own tests of Pipe, Listener, Client and of managers, run against ours.

As in test_pool_suite.py. Each class of tests is one test here, since those of the managers share one manager.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import unittest

import pytest

import multitask
from multitask import connections

CASES = {
    "processes": [
        "_TestConnection",
        "_TestListener",
        "_TestListenerClient",
        "_TestPicklingConnections",
        "_TestPoll",
        "_TestPollEintr",
    ],
    "manager": [
        "_TestBarrier",
        "_TestCondition",
        "_TestContainers",
        "_TestEvent",
        "_TestLock",
        "_TestManagerRestart",
        "_TestMyManager",
        "_TestQueue",
        "_TestRemoteManager",
        "_TestSemaphore",
    ],
    "plain": ["TestSyncManagerTypes", "TestWait"],
}


class _Connection:
    Listener = connections.Listener
    Client = staticmethod(connections.Client)

    def __getattr__(self, name):
        return getattr(multiprocessing.connection, name)


class _Ours:
    """Stands where the tests look for the module multiprocessing."""

    Pipe = staticmethod(multitask.Pipe)
    Manager = staticmethod(multitask.Manager)
    connection = _Connection()

    def __getattr__(self, name):
        return getattr(multiprocessing, name)


def _own_managers(suite, monkeypatch):
    """The suite's managers, on ours."""
    for name in ("MyManager", "QueueManager", "QueueManager2"):
        theirs = getattr(suite, name)
        own = type(name, (multitask.BaseManager,), {"__module__": suite.__name__, "_registry": theirs._registry})
        for typeid in theirs._registry:
            setattr(own, typeid, vars(theirs)[typeid])
        monkeypatch.setattr(suite, name, own)


def _cases():
    try:
        importlib.import_module("test._test_multiprocessing")
    except ImportError as error:
        return [pytest.param(None, None, id="absent", marks=pytest.mark.skip(f"CPython's tests: {error}"))]
    return [pytest.param(kind, name, id=f"{kind}-{name}") for kind, names in CASES.items() for name in names]


@pytest.mark.parametrize(("kind", "name"), _cases())
@pytest.mark.filterwarnings("default")
def test_multiprocessing_connections(kind, name, monkeypatch):
    suite = importlib.import_module("test._test_multiprocessing")
    monkeypatch.setattr(suite, "multiprocessing", _Ours())
    _own_managers(suite, monkeypatch)
    base = getattr(suite, name)
    if kind == "plain":
        case = base
    else:
        mixin = suite.ManagerMixin if kind == "manager" else suite.ProcessesMixin
        more = {"connection": _Connection(), "Pipe": staticmethod(multitask.Pipe)} if kind == "processes" else {}
        case = type(name, (base, mixin, unittest.TestCase), more)
        assert kind in base.ALLOWED_TYPES
    names = unittest.TestLoader().getTestCaseNames(case)
    result = unittest.TestResult()
    unittest.TestSuite([case(method) for method in names]).run(result)
    problems = [text for _, text in result.errors + result.failures]
    assert not problems, "\n".join(problems)
    assert result.testsRun == len(names) > len(result.skipped)
