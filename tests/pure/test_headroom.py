"""How much senders may keep: a share of what the machine and the control groups still have."""

import pytest

from multitask._engine import headroom

MEMINFO = "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 400 kB\n"
V2 = "31 23 0:41 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"


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


def test_what_the_machine_has_counts_without_groups(machine):
    assert headroom.available_bytes(machine({"proc/meminfo": MEMINFO})) == 400 * 1024


def test_a_kernel_that_does_not_say_leaves_nothing_to_keep(machine, monkeypatch):
    assert headroom.available_bytes(machine({})) is None
    monkeypatch.setattr(headroom, "available_bytes", lambda root: None)
    assert headroom.spare_bytes(2) == 0


def test_the_least_room_of_the_groups_counts_and_the_cache_of_files_is_room(machine):
    root = machine(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/memory.max": "100000\n",
            "sys/fs/cgroup/outer/memory.current": "70000\n",
            "sys/fs/cgroup/outer/memory.stat": "anon 5\ninactive_file 20000\n",
            "sys/fs/cgroup/outer/inner/memory.max": "max\n",
            "sys/fs/cgroup/outer/inner/memory.current": "60000\n",
        }
    )
    assert headroom.available_bytes(root) == 50000


def test_version_1_groups_count(machine):
    root = machine(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/mountinfo": V1,
            "proc/self/cgroup": "5:memory:/box\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "100000\n",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "130000\n",
        }
    )
    assert headroom.available_bytes(root) == 0


def test_senders_share_a_quarter_and_nobody_keeps_more_than_the_most(monkeypatch):
    monkeypatch.setattr(headroom, "available_bytes", lambda root: 1 << 30)
    assert headroom.spare_bytes(4) == 64 << 20
    monkeypatch.setattr(headroom, "available_bytes", lambda root: 1 << 40)
    assert headroom.spare_bytes(4) == headroom.MOST
