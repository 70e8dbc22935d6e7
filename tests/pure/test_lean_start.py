"""A worker's start loads little: what the first workers wait for, and the stand-in for ``typing`` that makes it so."""

from __future__ import annotations

import pickle
import subprocess
import sys

from multitask._engine.core import Options, Removed
from multitask._engine.workers import serving
from multitask._engine.workers.tree import Stat


def loaded(code: str) -> set[str]:
    """The modules that *code* loads in a fresh interpreter, which begins without those of ``site``."""
    program = f"import sys; sys.path[:] = {sys.path!r}\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"typing", "socket", "logging", "concurrent.futures", "multiprocessing"}


def test_the_fork_server_loads_nothing_heavy_before_its_first_fork() -> None:
    found = loaded("from multitask._engine.workers import serving\nfor name in serving._FIRST: serving._load(name)")
    assert {*serving._FIRST} <= found | {"multitask._native"}
    assert not HEAVY & found


def test_what_is_loaded_later_is_all_there() -> None:
    found = loaded("from multitask._engine.workers import serving\nfor name in serving._LATER: serving._load(name)")
    assert {*serving._LATER} <= found


def test_a_spawned_worker_loads_nothing_heavy() -> None:
    modules = "workers.spawned", "child", "byvalue.report"
    code = "\n".join(f"import multitask._engine.{name}" for name in modules)
    assert not HEAVY & loaded(code)


def test_named_tuples_are_those_of_typing_in_all_but_the_loading() -> None:
    options = Options(priority=3, name="a")
    assert options == (3, None, 0, 0.0, "a", None)
    assert options._replace(retries=2).retries == 2
    assert Options._field_defaults["backoff"] == 0.0
    assert repr(Stat(b"S", 1, 2, 3)) == "Stat(state=b'S', parent=1, group=2, born=3)"
    assert Options.__module__ == "multitask._engine.core"
    assert "one task" in (Options.__doc__ or "")
    assert type(pickle.loads(pickle.dumps(options))) is Options
    assert Removed._fields == ("lost", "item", "started", "crumb", "returned")
