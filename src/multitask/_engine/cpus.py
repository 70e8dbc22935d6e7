"""How many CPUs this process may really use: its affinity and the limits of its control groups.

`os.cpu_count()` counts those of the machine, which in a container with a limit of two gives 160 workers.
Sources: cgroups(7), the kernel's admin-guide/cgroup-v2 (cpu.max) and scheduler/sched-bwc (cpu.cfs_quota_us).
"""

from __future__ import annotations

import math
import os

from multitask._engine.cgroups import control_groups, lines


def cpu_count() -> int:
    """The number of CPUs this process may use, at least 1.

    The least of the affinity mask, the quota of each control group up to the root (rounded up: half a CPU
    still needs a worker), and, from Python 3.13 on, ``-X cpu_count`` and PYTHON_CPU_COUNT.
    """
    usable = _affinity()
    quota = cgroup_quota("/")
    if quota is not None:
        usable = min(usable, math.ceil(quota))
    return max(usable, 1)


def _affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # 3.13; heeds -X cpu_count
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(root: str | os.PathLike[str]) -> float | None:
    """CPUs' worth of time that the control groups of this process grant, None when there is no limit.

    *root* is where ``proc`` and ``sys`` are found; a test gives a folder of its own.
    """
    quotas = []
    for folder in control_groups(os.fspath(root), "cpu"):
        for read in (_quota_v2, _quota_v1):
            quota = read(folder)
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _quota_v2(folder: str) -> float | None:
    for line in lines(os.path.join(folder, "cpu.max")):
        quota, _, period = line.partition(" ")
        return _ratio(quota, period)
    return None


def _quota_v1(folder: str) -> float | None:
    quota, period = (lines(os.path.join(folder, f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    return _ratio(quota[0], period[0]) if quota and period else None


def _ratio(quota: str, period: str) -> float | None:
    try:
        microseconds, every = int(quota), int(period)
    except ValueError:  # "max": no limit
        return None
    return microseconds / every if microseconds > 0 and every > 0 else None
