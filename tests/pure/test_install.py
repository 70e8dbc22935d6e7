"""The extension is optional: without a compiler, and without Cython, the install works all the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOW = "from multitask import _native; print(_native.available)"

pytestmark = pytest.mark.slow


def install(tmp_path, **environment):
    """Install a copy of the project into a folder; return what `_native.available` is there, or pip's failure."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__", "*.egg-info")
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--no-deps", "--target", target, source],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    if done.returncode:
        return done.stdout + done.stderr
    return subprocess.run(
        [sys.executable, "-c", SHOW],
        env={**os.environ, "PYTHONPATH": str(target), "MULTITASK_NATIVE": "1"},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout.strip()


def test_without_a_compiler_the_install_works(tmp_path):
    assert install(tmp_path, CC="/there/is/no/compiler") == "False"


def test_without_cython_the_install_works(tmp_path):
    blocked = tmp_path / "blocked" / "Cython"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('taken away for this test')\n")
    assert install(tmp_path, PYTHONPATH=str(blocked.parent)) == "False"


def test_who_requires_the_native_core_is_told_that_it_failed(tmp_path):
    assert "/there/is/no/compiler" in install(tmp_path, CC="/there/is/no/compiler", MULTITASK_REQUIRE_NATIVE="1")


def test_the_native_core_is_here_where_it_can_be_built():
    """So that a broken build is not taken for a machine without a compiler."""
    import sysconfig

    headers = Path(sysconfig.get_path("include"), "Python.h")
    if sys.platform != "linux" or not shutil.which(os.environ.get("CC", "gcc")) or not headers.exists():
        pytest.skip("no Linux, no compiler or no Python headers")
    program = SHOW.replace("print", "import sys; sys.exit(_native.why_not or None) #")
    assert subprocess.run([sys.executable, "-c", program], env={**os.environ, "MULTITASK_NATIVE": "1"}).returncode == 0
