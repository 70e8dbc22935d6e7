"""The program that measures: command line, rounds, tables, goals. Which figures and which peers, its callers say."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path

import measure
import processes
from figures.figure import Figure
from tables import Round, Table, Verdict, goals_markdown


def arguments(doc: str, figures: Mapping[str, Figure], peers: Collection[str]) -> argparse.Namespace:
    """The command line."""
    summary, _, rest = doc.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figure", action="append", choices=figures, metavar="NAME",
                        help=f"only this one (repeatable): {', '.join(figures)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=None, help="default: 5, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="small sizes; the ratios are rough")
    parser.add_argument("--peers", type=lambda text: [name for name in text.split(",") if name], default=None,
                        help=f"only these, comma-separated; empty for none: {','.join(peers)}")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs and goals to FILE")
    given = parser.parse_args()
    unknown = set(given.peers or ()) - set(peers)
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(peers)}")
    given.rounds = given.rounds or (1 if given.quick else 5)
    return given


def run_figure(figure: Figure, contenders: list[str], rounds: int, quick: bool) -> Table:
    """All contenders of one figure, one after the other; each round begins with another one."""
    done: list[Round] = []
    rounds = min(rounds, figure.most_rounds)
    for number in range(rounds):
        first = number % len(contenders)
        done.append({})
        for name in contenders[first:] + contenders[:first]:
            run = measure.run(figure.name, name, quick, figure.limit_seconds)
            done[-1][name] = run
            shown = "  ".join(f"{key} {value:,.5g}" for key, value in run.values.items())
            left = f"  ({run.left_behind} processes left behind)" if run.left_behind else ""
            print(f"{figure.name} {number + 1}/{rounds}  {name}: {shown}{run.trouble and '  ! ' + run.trouble}{left}",
                  file=sys.stderr, flush=True)  # fmt: skip
    return Table(figure, done)


def machine(packages: Collection[str], remark: str = "") -> str:
    """Where and with what: a figure without this is worth nothing."""
    versions = []
    for package in sorted(packages):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    parts = [
        f"Python {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} CPUs, load {os.getloadavg()[0]:.1f} at the start",
        remark,
        ", ".join(versions),
    ]
    return "; ".join(filter(None, parts)) + "."


def compare(
    doc: str | None,
    figures: Mapping[str, Figure],
    peers: Collection[str],
    installed: Callable[[str], bool],
    packages: Collection[str],
    remark: str = "",
) -> int:
    """Measure what the command line asks for: 0 when every goal is met, 1 when one is missed."""
    given = arguments(doc or "", figures, peers)
    wanted = peers if given.peers is None else given.peers
    processes.become_reaper()
    where = machine(packages, remark)
    print(where + "\n", flush=True)
    tables: list[Table] = []
    verdicts: list[Verdict] = []
    for figure in (figures[name] for name in given.figure or figures):
        chosen = [name for name in figure.contenders if (name not in peers or name in wanted) and installed(name)]
        table = run_figure(figure, chosen, given.rounds, given.quick)
        tables.append(table)
        verdicts += table.verdicts()
        print(table.markdown() + "\n", flush=True)
        if given.json:
            given.json.write_text(json.dumps(_document(where, tables, verdicts), indent=1))
    print(goals_markdown(verdicts))
    return 0 if all(verdict.met for verdict in verdicts) else 1


def _document(where: str, tables: list[Table], verdicts: list[Verdict]) -> dict[str, object]:
    return {
        "machine": where,
        "figures": {
            table.figure.name: [{name: asdict(run) for name, run in round_.items()} for round_ in table.rounds]
            for table in tables
        },
        "goals": [{**asdict(verdict), "goal": str(verdict.goal), "met": verdict.met} for verdict in verdicts],
    }
