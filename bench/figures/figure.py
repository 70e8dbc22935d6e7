"""What a figure is: who is measured, how, and what must come out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Report = Callable[[dict[str, float]], None]  # called once with the values, before the pool is closed
Size = Mapping[str, int]
Measure = Callable[[str, Size, Report], None]

_COMPARE = {"at least": operator.ge, "at most": operator.le}


@dataclass(frozen=True)
class Goal:
    """What our own cell of a column must show: its value, its ratio to the baseline, or the first place."""

    of: Literal["value", "ratio", "place"]
    word: Literal["at least", "at most", "first"]
    bound: float = 0.0

    def met(self, measured: float) -> bool:
        return measured == 1 if self.word == "first" else bool(_COMPARE[self.word](measured, self.bound))

    def __str__(self) -> str:
        return "no peer ahead" if self.word == "first" else f"{self.of} {self.word} {self.bound:g}"


@dataclass(frozen=True)
class Value:
    """One column: a key of the dict that is reported, its heading, and what it must be."""

    key: str
    heading: str
    digits: int = 1
    higher_is_better: bool = True
    ratio: bool = True  # whether a column with the ratio to the baseline follows
    speed: bool = False  # of a time: show the ratio as "times as fast", baseline / contender
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Figure:
    """One table: its rows are contenders, its columns values."""

    name: str
    title: str
    values: tuple[Value, ...]
    contenders: tuple[str, ...]
    measure: Measure
    full: Size
    quick: Size
    limit_seconds: float = 120.0
    baseline: str = "mp"
    most_rounds: int = 99  # more would show nothing new
    remarks: str = ""
    what: str = "pool"  # the heading of the first column
    row_titles: Mapping[str, str] = field(default_factory=dict)
