"""Measures shared memory beside its peers, as pool.py does: interleaved, ratios within a round.

    python bench/sharing.py                             all figures, 5 rounds
    python bench/sharing.py --figure counter --rounds 3
    python bench/sharing.py --quick                     a rough look

Tables go to stdout as Markdown, progress to stderr. Peers that are not installed (joblib, ray) are left out.
"""

from __future__ import annotations

import sys

from comparing import compare
from figures import SHARING
from figures.sharing import WAYS, installed

if __name__ == "__main__":
    peers = [name for name, (_, _, package) in WAYS.items() if package]
    sys.exit(compare(__doc__, SHARING, peers, installed, ("joblib", "numpy", "ray")))
