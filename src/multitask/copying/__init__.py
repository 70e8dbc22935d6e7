"""Copying folders: the plan, the steps a worker does, the run, the report. ``copytree`` is the way in from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["copytree"]

if TYPE_CHECKING:
    from multitask.copying.tree import copytree
else:

    def __getattr__(name):
        # Workers import .steps from here and need nothing of the rest.
        if name != "copytree":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from multitask.copying.tree import copytree

        return copytree
