"""How much memory the senders of a pool may keep for the next large content."""

from __future__ import annotations

import os

from multitask._engine.cgroups import control_groups, lines

MOST = 512 << 20  # bytes on one shelf

_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def spare_bytes(senders: int) -> int:
    """What one of *senders* may keep: their share of a quarter of the available memory, at most 512 MiB."""
    available = available_bytes("/")
    return 0 if available is None else min(MOST, available // 4 // senders)


def available_bytes(root: str | os.PathLike[str]) -> int | None:
    """Memory that this process could still get without swapping: the machine's and that of its control groups.

    None where the kernel does not say. *root* is as in ``cgroups``.
    """
    top = os.fspath(root)
    figures = [_figure(os.path.join(top, "proc/meminfo"), "MemAvailable:", 1024)]
    for folder in control_groups(top, "memory"):
        figures += (_room(folder, *names) for names in (_V2, _V1))
    return min((each for each in figures if each is not None), default=None)


def _room(folder: str, limit: str, usage: str, reclaimable: str) -> int | None:
    most, used = (_figure(os.path.join(folder, name)) for name in (limit, usage))
    if most is None or used is None:
        return None
    # The page cache of files counts as used, and yet it is given up first.
    return max(0, most - used + (_figure(os.path.join(folder, "memory.stat"), reclaimable) or 0))


def _figure(path: str, name: str | None = None, unit: int = 1) -> int | None:
    """The number in a file of one, or behind *name* in a file of many; None where there is none ("max")."""
    for line in lines(path):
        fields = line.split()
        if name is None or fields[:1] == [name]:
            number = fields[0 if name is None else 1]
            return int(number) * unit if number.isdigit() else None
    return None
