"""The contract suite where fork, memfd, pidfds, fcntl, resource, SIGKILL, SIGSTOP and epoll are missing.

That is how other systems look to the library: workers are spawned or are threads, calls travel through pipes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Run by a fresh interpreter: the names go before anything of the library, or of pytest, is imported.
ELSEWHERE = """
import os, select, signal, sys

for module, names in (
    (os, ("fork", "forkpty", "register_at_fork", "memfd_create", "pidfd_open", "P_PIDFD", "waitid")),
    (signal, ("SIGKILL", "SIGSTOP", "pidfd_send_signal")),
    (select, ("epoll",)),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.modules["fcntl"] = sys.modules["resource"] = None

import pytest

VARIANTS = ("thread", "process-pipe-spawn")

def fits(item):
    variant = getattr(item, "callspec", None) and item.callspec.params.get("variant")
    return variant in VARIANTS and "ctrl_c" not in item.name  # Ctrl-C is another thing elsewhere

class Only:
    def pytest_collection_modifyitems(self, config, items):
        config.hook.pytest_deselected(items=[item for item in items if not fits(item)])
        items[:] = filter(fits, items)

sys.exit(pytest.main(sys.argv[1:], plugins=[Only()]))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_contract_holds_on_spawn_and_threads_where_the_rest_is_missing(tmp_path):
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    flags = ["-q", "-x", "-p", "no:cacheprovider", "--timeout=60", f"--rootdir={ROOT}"]
    done = subprocess.run(
        [sys.executable, script, *flags, str(ROOT / "tests" / "contract")],
        cwd=ROOT,
        env={**os.environ, "MULTITASK_NATIVE": "0"},
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
