"""Runs one contender of one figure in a process of its own, and knows whether the machine was quiet meanwhile."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import processes

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
QUIET_CORES = 0.3  # a run during which others used more than this is called disturbed; fixed beforehand


@dataclass
class Run:
    """What one contender did in one round: its values, or why there are none."""

    contender: str
    values: dict[str, float] = field(default_factory=dict)
    trouble: str = ""
    others_cores: float = 0.0
    left_behind: int = 0

    @property
    def quiet(self) -> bool:
        return self.others_cores <= QUIET_CORES


def environment(token: str) -> dict[str, str]:
    """The environment of a measurement: our sources first, one thread for each numeric library.

    Compiled modules are kept, for a start that compiles our sources each time would be compared with peers that were
    installed, and so compiled long ago.
    """
    path = [str(SOURCE), str(HERE), os.environ.get("PYTHONPATH", "")]
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **single, processes.TOKEN: token, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def run(figure: str, contender: str, quick: bool, limit_seconds: float) -> Run:
    """Measure *contender* once; never hangs, leaves no process behind."""
    token = uuid.uuid4().hex
    outcome = Run(contender)
    busy, own, begin = processes.machine_busy_seconds(), _children_seconds(), perf_counter()
    with tempfile.TemporaryDirectory(prefix="multitask-bench-") as folder:
        answer, errors = Path(folder, "answer.json"), Path(folder, "errors.txt")
        size = "quick" if quick else "full"
        command = [sys.executable, str(HERE / "one.py"), figure, contender, size, str(answer)]
        with errors.open("wb") as stream:
            process = subprocess.Popen(
                command, env=environment(token), cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                start_new_session=True,
            )  # fmt: skip
        try:
            code: int | None = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            code = None
            process.kill()
            process.wait()
        outcome.left_behind = processes.end_marked(token)
        if answer.exists():  # a pool that hangs when it closes has been measured all the same
            outcome.values = json.loads(answer.read_text())
        outcome.trouble = _trouble(code, limit_seconds, errors)
    processes.reap()
    used = processes.machine_busy_seconds() - busy - (_children_seconds() - own)
    outcome.others_cores = max(0.0, used / (perf_counter() - begin))
    return outcome


def _trouble(code: int | None, limit_seconds: float, errors: Path) -> str:
    if code is None:
        return f"no answer after {limit_seconds:.0f} s"
    if code == 0:
        return ""
    lines = errors.read_text(errors="replace").strip().splitlines()
    why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{why}: {lines[-1][:160]}" if lines else why


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
