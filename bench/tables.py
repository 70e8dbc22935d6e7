"""From runs to tables: medians, ratios of the same round, goals; all printed as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from contenders import OURS, title_of
from figures.figure import Figure, Goal, Value
from measure import Run

Round = dict[str, Run]


@dataclass(frozen=True)
class Cell:
    """A contender in a column: the median of its values, and of its ratios to the baseline in the same round."""

    value: float
    ratio: float | None
    lowest: float | None
    highest: float | None


@dataclass(frozen=True)
class Verdict:
    """A goal, what was measured for it, and whether it holds."""

    figure: str
    column: str
    contender: str
    goal: Goal
    measured: float | None

    @property
    def met(self) -> bool:
        return self.measured is not None and self.goal.met(self.measured)


class Table:
    """One figure's rounds, and what they come to."""

    def __init__(self, figure: Figure, rounds: list[Round]) -> None:
        self.figure = figure
        self.rounds = rounds
        self.contenders = [name for name in figure.contenders if any(name in round_ for round_ in rounds)]

    def cell(self, contender: str, value: Value) -> Cell | None:
        """None when this contender never gave this value."""
        measured = [r[contender].values[value.key] for r in self._counted(contender, value.key, contender)]
        if not measured:
            return None
        ratios = list(self._ratios(contender, value))
        if not ratios:
            return Cell(statistics.median(measured), None, None, None)
        return Cell(statistics.median(measured), statistics.median(ratios), min(ratios), max(ratios))

    def _counted(self, contender: str, key: str, *needed: str) -> list[Round]:
        """The rounds that count: quiet ones when they are at least half, else all that have the value."""
        have = [r for r in self.rounds if all(name in r and key in r[name].values for name in needed)]
        quiet = [r for r in have if all(r[name].quiet for name in needed)]
        return quiet if 2 * len(quiet) >= len(have) else have

    def _ratios(self, contender: str, value: Value) -> Iterator[float]:
        base = self.figure.baseline
        for round_ in self._counted(contender, value.key, contender, base):
            ours, theirs = round_[contender].values[value.key], round_[base].values[value.key]
            if ours and theirs:
                yield theirs / ours if value.speed else ours / theirs

    def place(self, contender: str, value: Value) -> int | None:
        """1 when nobody else is better; our own other kinds do not compete."""
        mine = self.cell(contender, value)
        if mine is None:
            return None
        others = [self.cell(n, value) for n in self.contenders if n != contender and not n.startswith(OURS)]
        ahead = sum(
            1 for other in others if other is not None
            and (other.value > mine.value if value.higher_is_better else other.value < mine.value)
        )  # fmt: skip
        return 1 + ahead

    def verdicts(self) -> list[Verdict]:
        """Every goal of this figure for our pool and, where it is measured apart, for our pool with a limit."""
        out = []
        for value in self.figure.values:
            for goal in value.goals:
                for name in (OURS, "multitask-limit"):
                    if name not in self.contenders:
                        continue
                    cell = self.cell(name, value)
                    measured: float | None = None
                    if goal.of == "place":
                        measured = self.place(name, value)
                    elif cell is not None:
                        measured = cell.ratio if goal.of == "ratio" else cell.value
                    out.append(Verdict(self.figure.name, value.heading, name, goal, measured))
        return out

    def markdown(self) -> str:
        """The table with its title, its remarks and what went wrong."""
        head = [self.figure.what]
        for value in self.figure.values:
            head.append(value.heading)
            if value.ratio:
                head.append("times as fast" if value.speed else "ratio")
        lines = [f"### {self.figure.title} (`{self.figure.name}`)", ""]
        lines += [_row(head), _row(["---"] + ["---:"] * (len(head) - 1))]
        lines += [_row(list(self._cells(name))) for name in self.contenders]
        notes = [self.figure.remarks] if self.figure.remarks else []
        notes.append(self._disturbance())
        lines += ["", *notes, *self._troubles()]
        return "\n".join(lines)

    def _cells(self, contender: str) -> Iterator[str]:
        yield self.figure.row_titles.get(contender, title_of(contender))
        for value in self.figure.values:
            cell = self.cell(contender, value)
            yield "-" if cell is None else f"{cell.value:,.{value.digits}f}"
            if value.ratio:
                yield "-" if cell is None else _ratio_text(cell)

    def _disturbance(self) -> str:
        runs = [run for round_ in self.rounds for run in round_.values()]
        noisy = sum(not run.quiet for run in runs)
        middle = statistics.median(run.others_cores for run in runs) if runs else 0.0
        share = f"{noisy} of {len(runs)} runs disturbed"
        return f"{len(self.rounds)} rounds; others used {middle:.2f} cores in the median; {share}."

    def _troubles(self) -> list[str]:
        found: dict[str, int] = {}
        for round_ in self.rounds:
            for name, run in round_.items():
                if run.trouble:
                    line = f"- {self.figure.row_titles.get(name, title_of(name))}: {run.trouble}"
                    found[line] = found.get(line, 0) + 1
        return [f"{line} ({count} of {len(self.rounds)} rounds)" for line, count in found.items()]


def goals_markdown(verdicts: list[Verdict]) -> str:
    """All goals in one table, the missed ones first."""
    lines = ["### Goals", "", _row(["figure", "column", "goal", "measured", "met"]), _row(["---"] * 5)]
    for verdict in sorted(verdicts, key=lambda v: v.met):
        measured = "-" if verdict.measured is None else f"{verdict.measured:,.4g}"
        limit = " (with `max_memory`)" if verdict.contender != OURS else ""
        met = "yes" if verdict.met else "**no**"
        lines.append(_row([verdict.figure + limit, verdict.column, str(verdict.goal), measured, met]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ratio_text(cell: Cell) -> str:
    if cell.ratio is None or cell.lowest is None or cell.highest is None:
        return "-"
    digits = 1 if cell.ratio >= 10 else 2 if cell.ratio >= 0.1 else 3
    if cell.lowest == cell.highest:
        return f"{cell.ratio:.{digits}f}"
    return f"{cell.ratio:.{digits}f} ({cell.lowest:.{digits}f} to {cell.highest:.{digits}f})"
