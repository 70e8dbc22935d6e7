"""The figures: one table each, by name."""

from __future__ import annotations

from figures import arrays, calls, computing, idle, queues, sharing, start, waiting
from figures.figure import Figure

FIGURES: dict[str, Figure] = {
    figure.name: figure for module in (calls, computing, arrays, start, waiting, idle) for figure in module.FIGURES
}
QUEUE_FIGURES: dict[str, Figure] = {figure.name: figure for figure in queues.FIGURES}
SHARING: dict[str, Figure] = {figure.name: figure for figure in sharing.FIGURES}
