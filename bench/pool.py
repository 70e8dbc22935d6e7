"""Measures the pool beside its peers, interleaved round by round; what counts is the ratio within a round.

    python bench/pool.py                                  all figures, 5 rounds
    python bench/pool.py --figure one-by-one --rounds 3   one figure
    python bench/pool.py --quick                          a rough look, a round of small sizes

Tables go to stdout as Markdown, progress to stderr. Peers that are not installed are left out.
"""

from __future__ import annotations

import sys

from comparing import compare
from contenders import CONTENDERS, OURS, PROCESS_PEERS, THREAD_PEERS, installed
from figures import FIGURES
from figures.arrays import HEAVY

PEERS = (*PROCESS_PEERS, *THREAD_PEERS, *HEAVY)

if __name__ == "__main__":
    packages = {contender.package for contender in CONTENDERS.values()} - {"python", OURS} | {"numpy"}
    sys.exit(
        compare(__doc__, FIGURES, PEERS, lambda name: name not in CONTENDERS or installed(name), packages, "2 workers")
    )
