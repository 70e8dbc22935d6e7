"""cpu_count() heeds affinity and the limits of control groups, of both versions, in and out of containers."""

import os
import subprocess
import sys

import pytest

import multitask
from multitask._engine import cpus

V2 = "31 23 0:41 {shown} /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:29 {shown} /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.fixture
def machine(tmp_path):
    """A made-up /proc and /sys: machine({path: text})."""

    def make(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def test_no_control_groups_means_no_limit(machine):
    assert cpus.cgroup_quota(machine({})) is None


def test_version_2_limit_of_the_own_group(machine):
    root = machine(
        {
            "proc/self/mountinfo": V2.format(shown="/"),
            "proc/self/cgroup": "0::/box\n",
            "sys/fs/cgroup/box/cpu.max": "150000 100000\n",
        }
    )
    assert cpus.cgroup_quota(root) == 1.5


def test_version_2_limit_of_a_group_further_up_counts(machine):
    root = machine(
        {
            "proc/self/mountinfo": V2.format(shown="/"),
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
        }
    )
    assert cpus.cgroup_quota(root) == 3.0


def test_version_2_in_a_container_that_sees_its_group_as_the_root(machine):
    root = machine(
        {
            "proc/self/mountinfo": V2.format(shown="/docker/abc"),
            "proc/self/cgroup": "0::/docker/abc\n",
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
        }
    )
    assert cpus.cgroup_quota(root) == 2.0


def test_version_1_limit(machine):
    root = machine(
        {
            "proc/self/mountinfo": V1.format(shown="/"),
            "proc/self/cgroup": "4:memory:/m\n2:cpu,cpuacct:/box\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
        }
    )
    assert cpus.cgroup_quota(root) == 0.5


def test_version_1_without_a_limit(machine):
    root = machine(
        {
            "proc/self/mountinfo": V1.format(shown="/"),
            "proc/self/cgroup": "2:cpu,cpuacct:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )
    assert cpus.cgroup_quota(root) is None


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.5, 2), (64.0, 8), (None, 8)])
def test_the_least_limit_counts_rounded_up(monkeypatch, quota, expected):
    monkeypatch.setattr(cpus, "_affinity", lambda: 8)
    monkeypatch.setattr(cpus, "cgroup_quota", lambda root: quota)
    assert cpus.cpu_count() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no affinity")
def test_affinity_counts():
    program = "import os, multitask as m; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(m.cpu_count())"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"1\n"


def test_there_is_always_one():
    assert multitask.cpu_count() >= 1
