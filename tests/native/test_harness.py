"""Compiles the native tests of lanes, queue and shared memory and runs them; ``make sanitize``: under sanitizers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "src" / "multitask" / "_native"
NAMES = ["test_lane", "test_doorbell", "test_death", "test_ring", "test_ring_death", "test_shared"]
COMPILER = os.environ.get("CC") or shutil.which("cc")

pytestmark = [
    pytest.mark.skipif(not COMPILER, reason="no C compiler"),
    pytest.mark.skipif(not shutil.which("make"), reason="no make"),
    pytest.mark.skipif(os.uname().sysname != "Linux", reason="the native core is for Linux"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The native tests, compiled."""
    build = tmp_path_factory.mktemp("native")
    targets = [f"{build}/{name}.plain" for name in NAMES]
    done = subprocess.run(["make", "-C", str(HERE), f"BUILD={build}", *targets], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return build


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(400)
def test_the_lane_keeps_its_promises_without_python(built: Path, name: str) -> None:
    """Content, wraps, take-back, condemnation; leaders; processes killed at every step and at 1,000 instants."""
    done = subprocess.run([built / f"{name}.plain"], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all good\n")


LAYOUT = r"""
#include "lane.h"
#include <stddef.h>
#include <stdio.h>
int main(void) {
    printf("lane %zu %zu %zu slot %zu ring %zu %zu %zu %zu %zu",
           offsetof(mt_lane, requests), offsetof(mt_lane, replies), sizeof(mt_lane), sizeof(mt_slot),
           offsetof(mt_ring, producer_waiting), offsetof(mt_ring, tail), offsetof(mt_ring, consumer_asleep),
           offsetof(mt_ring, slots), offsetof(mt_ring, bytes));
}
"""


def test_the_readme_draws_the_memory_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "layout.c").write_text(LAYOUT)
    binary = tmp_path / "layout"
    compiling = [str(COMPILER), "-std=gnu11", "-w", "-I", str(NATIVE), str(tmp_path / "layout.c"), "-o", str(binary)]
    subprocess.run(compiling, check=True)
    real = subprocess.run([binary], capture_output=True, text=True, check=True).stdout.split()
    text = (NATIVE / "README.md").read_text()
    drawn = text[text.index("## Memory") : text.index("## A message")].split()
    missing = [number for number in real if number.isdigit() and number not in drawn]
    assert not missing, f"lane.h has offsets that the README does not draw: {' '.join(real)}"
