"""Measures one contender of one figure: the process that measure.run() starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(figure: str, contender: str, size: str, answer: str) -> None:
    """Write the values as JSON to the file *answer*: stdout belongs to the pools."""
    from figures import FIGURES, QUEUE_FIGURES, SHARING

    chosen = {**FIGURES, **QUEUE_FIGURES, **SHARING}[figure]

    def report(values: dict[str, float]) -> None:
        unfinished = Path(answer + ".part")
        unfinished.write_text(json.dumps(values))
        unfinished.rename(answer)

    chosen.measure(contender, chosen.quick if size == "quick" else chosen.full, report)


if __name__ == "__main__":
    main(*sys.argv[1:])
