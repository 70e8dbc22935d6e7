"""The functions that the contenders run: importable, so that every pool can send them by name."""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any

TOUCH = 512  # float64 values per page of 4 KiB: a step that reads every page once


def f(x: int) -> int:
    """The smallest task that does something."""
    return x + 1


def spin(turns: int) -> int:
    """Compute for a fixed amount of work: its time shows what the machine gave us."""
    total = 0
    for turn in range(turns):
        total += turn & 7
    return total


def spin_until(seconds: float) -> None:
    """Compute until *seconds* have passed on the clock, whatever else used the machine."""
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


def turns_for(seconds: float) -> int:
    """How many turns of spin() take *seconds* here and now: the best of several tries."""
    turns = 20_000
    best = min(_timed(turns) for _ in range(25))
    return max(1, round(turns * seconds / best))


def _timed(turns: int) -> float:
    begin = perf_counter()
    spin(turns)
    return perf_counter() - begin


def echo(array: Any) -> Any:
    """Read every page of *array* once and give the same array back."""
    array[::TOUCH].sum()
    return array


def remade(array: Any) -> Any:
    """Read *array* and give a new one of the same size back."""
    return array + 1.0


def hold(gate: str) -> None:
    """Keep the worker busy until somebody opens the named pipe *gate* for writing."""
    os.close(os.open(gate, os.O_RDONLY))


LATER = "MULTITASK_BENCH_LATER"  # environment: the named pipe that f_later waits for
_passed = False


def f_later(x: int) -> int:
    """``f``, but the first one in each worker waits until the named pipe of the environment is open for writing."""
    global _passed
    if not _passed:
        hold(os.environ[LATER])
        _passed = True
    return x + 1
