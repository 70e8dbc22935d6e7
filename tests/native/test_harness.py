"""Compiles the native tests of the lane protocol and runs them; ``make sanitize`` runs them under sanitizers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
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
    targets = [f"{build}/test_lane.plain", f"{build}/test_death.plain"]
    done = subprocess.run(["make", "-C", str(HERE), f"BUILD={build}", *targets], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return build


@pytest.mark.parametrize("name", ["test_lane", "test_death"])
def test_the_lane_keeps_its_promises_without_python(built: Path, name: str) -> None:
    """Content, wraps, take-back, condemnation; workers killed at every step and at 1,000 random instants."""
    done = subprocess.run([built / f"{name}.plain"], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all good\n")
