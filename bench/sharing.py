"""Measures shared memory beside its peers, as pool.py does: interleaved, ratios within a round.

    python bench/sharing.py                             all figures, 5 rounds
    python bench/sharing.py --figure counter --rounds 3
    python bench/sharing.py --quick                     a rough look

Tables go to stdout as Markdown, progress to stderr. Peers that are not installed (joblib, ray) are left out.
"""

from __future__ import annotations

import argparse
import sys

import processes
from figures import SHARING
from pool import machine, run_figure
from tables import Verdict, goals_markdown


def main() -> int:
    """0 when every goal is met, 1 when one is missed."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figure", action="append", choices=SHARING, metavar="NAME",
                        help=f"only this one (repeatable): {', '.join(SHARING)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=None, help="default: 5, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="small sizes; the ratios are rough")
    given = parser.parse_args()
    processes.become_reaper()
    print(machine() + "\n", flush=True)
    verdicts: list[Verdict] = []
    for figure in (SHARING[name] for name in given.figure or SHARING):
        rounds = given.rounds or (1 if given.quick else 5)
        table = run_figure(figure, list(figure.contenders), rounds, given.quick)
        verdicts += table.verdicts()
        print(table.markdown() + "\n", flush=True)
    print(goals_markdown(verdicts))
    return 0 if all(verdict.met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
