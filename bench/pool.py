"""Measures the pool beside its peers, interleaved round by round; what counts is the ratio within a round.

    python bench/pool.py                                  all figures, 5 rounds
    python bench/pool.py --figure one-by-one --rounds 3   one figure
    python bench/pool.py --quick                          a rough look, a round of small sizes

Tables go to stdout as Markdown, progress to stderr. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import measure
import processes
from contenders import CONTENDERS, OURS, PROCESS_PEERS, THREAD_PEERS, installed
from figures import FIGURES
from figures.arrays import HEAVY
from figures.figure import Figure
from tables import Round, Table, Verdict, goals_markdown

PEERS = (*PROCESS_PEERS, *THREAD_PEERS, *HEAVY)


def arguments() -> argparse.Namespace:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figure", action="append", choices=FIGURES, metavar="NAME",
                        help=f"only this one (repeatable): {', '.join(FIGURES)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=None, help="default: 5, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="small sizes; the ratios are rough")
    parser.add_argument("--peers", type=lambda text: [name for name in text.split(",") if name], default=None,
                        help=f"only these, comma-separated; empty for none: {','.join(PEERS)}")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs and goals to FILE")
    given = parser.parse_args()
    unknown = set(given.peers or ()) - set(PEERS)
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    given.rounds = given.rounds or (1 if given.quick else 5)
    return given


def chosen(figure: Figure, peers: list[str] | None) -> list[str]:
    """The contenders of this figure that were asked for and are installed."""
    wanted = PEERS if peers is None else peers
    return [
        name for name in figure.contenders
        if (name not in PEERS or name in wanted) and (name not in CONTENDERS or installed(name))
    ]  # fmt: skip


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


def machine() -> str:
    """Where and with what: a figure without this is worth nothing."""
    versions = []
    for package in sorted({c.package for c in CONTENDERS.values()} - {"python", OURS} | {"numpy"}):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} CPUs, load {os.getloadavg()[0]:.1f} at the start; 2 workers; "
        f"{', '.join(versions)}."
    )


def main() -> int:
    """0 when every goal is met, 1 when one is missed."""
    given = arguments()
    processes.become_reaper()
    print(machine() + "\n", flush=True)
    tables: list[Table] = []
    verdicts: list[Verdict] = []
    for figure in (FIGURES[name] for name in given.figure or FIGURES):
        table = run_figure(figure, chosen(figure, given.peers), given.rounds, given.quick)
        tables.append(table)
        verdicts += table.verdicts()
        print(table.markdown() + "\n", flush=True)
        if given.json:
            given.json.write_text(json.dumps(_document(tables, verdicts), indent=1))
    print(goals_markdown(verdicts))
    return 0 if all(verdict.met for verdict in verdicts) else 1


def _document(tables: list[Table], verdicts: list[Verdict]) -> dict[str, object]:
    return {
        "machine": machine(),
        "figures": {
            table.figure.name: [{name: asdict(run) for name, run in round_.items()} for round_ in table.rounds]
            for table in tables
        },
        "goals": [{**asdict(verdict), "goal": str(verdict.goal), "met": verdict.met} for verdict in verdicts],
    }


if __name__ == "__main__":
    sys.exit(main())
