"""How long a short script waits: the import, the first result of a new pool, the whole process."""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from time import perf_counter

from contenders import OURS

from figures.figure import Figure, Goal, Report, Size, Value

FIRST = Path(__file__).resolve().parent.parent / "first.py"
IMPORTS = {
    "multitask": "import multitask",
    "multitask-pool": "from multitask import Pool",
    "mp": "import multiprocessing.pool",
    "ppe": "from concurrent.futures import ProcessPoolExecutor",
    "loky": "import loky",
    "joblib": "import joblib",
    "mpire": "import mpire",
    "pebble": "import pebble",
    "billiard": "import billiard.pool",
    "deadpool": "import deadpool",
}


def _answer(*arguments: str) -> float:
    """Run a fresh interpreter; the last word that it prints."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else f"exit code {done.returncode}")
    return float(done.stdout.split()[-1])


def first_result(method: str, name: str, size: Size, report: Report) -> None:
    """A fresh interpreter each time: inside, from before the pool is made; outside, the whole process."""
    inside, whole = [], []
    for _ in range(size["starts"]):
        begin = perf_counter()
        answer = _answer(str(FIRST), name, method)
        whole.append((perf_counter() - begin) * 1e3)
        inside.append(answer)
    report({"inside": statistics.median(inside), "whole": statistics.median(whole)})


def imported(name: str, size: Size, report: Report) -> None:
    """A fresh interpreter each time, which times the one statement itself."""
    program = f"from time import perf_counter as now\nbegin = now()\n{IMPORTS[name]}\nprint((now() - begin) * 1e3)"
    times = []
    for _ in range(size["starts"]):
        times.append(_answer("-c", program))
    report({"import": statistics.median(times)})


def _first(method: str) -> Figure:
    return Figure(
        f"first-{method}",
        f"First result of a new pool in a fresh interpreter, start method {method}",
        (
            Value("inside", "pool made until result, ms", 1, False, goals=(Goal("ratio", "at most", 1.1),)),
            Value("whole", "whole process, start to exit, ms", 0, False),
        ),
        (OURS, "mp", "ppe", "mpire", "pebble"),
        partial(first_result, method),
        full={"starts": 5},
        quick={"starts": 1},
    )


FIGURES = (
    *(_first(method) for method in ("fork", "forkserver", "spawn")),
    Figure(
        "import",
        "Time to import",
        (Value("import", "ms", 1, False, goals=(Goal("ratio", "at most", 1.2),)),),
        tuple(IMPORTS),
        imported,
        full={"starts": 9},
        quick={"starts": 3},
        row_titles={name: f"`{statement}`" for name, statement in IMPORTS.items()},
    ),
)
