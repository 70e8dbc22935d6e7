"""Measures the queues beside their peers, interleaved round by round; what counts is the ratio within a round.

    python bench/queue.py                             all figures, 5 rounds
    python bench/queue.py --figure int --rounds 3     one figure
    python bench/queue.py --quick                     a rough look, a round of small sizes

Tables go to stdout as Markdown, progress to stderr. Peers that are not installed are left out.
"""

from __future__ import annotations

import sys


def stand_aside() -> None:
    """Whoever imports ``queue`` with this folder on the path gets the standard library's, not this file."""
    import importlib.machinery
    import importlib.util
    import sysconfig

    spec = importlib.machinery.PathFinder.find_spec("queue", [sysconfig.get_path("stdlib")])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["queue"] = module
    spec.loader.exec_module(module)


stand_aside()

if __name__ == "__main__":
    from comparing import compare
    from figures import QUEUE_FIGURES
    from queue_peers import PEERS, installed

    sys.exit(compare(__doc__, QUEUE_FIGURES, PEERS, installed, ("faster-fifo", "pyzmq")))
