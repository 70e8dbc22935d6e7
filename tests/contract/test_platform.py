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
FLAVOURS = ("file", "remote", "remote-objects")
queues = sys.argv.pop(1) == "queues"

def fits(item):
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if queues:
        return params.get("flavour") in FLAVOURS
    if "test_sharing" in item.nodeid and ("object_is" in item.name or params.get("variant") != "thread"):
        return False  # nothing there is mapped by two processes or kept as a pickle: see test_shared_memory_says_...
    return params.get("variant") in VARIANTS and "ctrl_c" not in item.name  # Ctrl-C is another thing elsewhere

class Only:
    def pytest_collection_modifyitems(self, config, items):
        config.hook.pytest_deselected(items=[item for item in items if not fits(item)])
        items[:] = filter(fits, items)

sys.exit(pytest.main(sys.argv[1:], plugins=[Only()]))
"""


def run(tmp_path, what, *files):
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    flags = ["-q", "-x", "-p", "no:cacheprovider", "--timeout=60", f"--rootdir={ROOT}"]
    done = subprocess.run(
        [sys.executable, script, what, *flags, *(str(ROOT / "tests" / "contract" / file) for file in files)],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if "XDIST" not in key} | {"MULTITASK_NATIVE": "0"},
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_contract_holds_on_spawn_and_threads_where_the_rest_is_missing(tmp_path):
    run(tmp_path, "pools", "")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_queues_keep_theirs_within_one_process_where_the_rest_is_missing(tmp_path):
    """On a file whose lock is the standard library's semaphore, and served from there."""
    run(tmp_path, "queues", "test_queues.py", "test_queues_shutdown.py")


SHARING_ELSEWHERE = """
import os
del os.memfd_create
import sys
sys.modules["fcntl"] = None
import multitask
counter = multitask.Counter(3)
with multitask.Pool(1, kind="thread") as pool:
    print(pool.apply(counter.add, (4,)))
with multitask.Pool(1, start_method="spawn") as pool:
    try:
        pool.apply(print, (counter,))
    except multitask.CannotTravel as error:
        print(error.__cause__ or error)
"""


def test_shared_memory_says_that_it_stays_in_its_process_where_the_rest_is_missing():
    done = subprocess.run(
        [sys.executable, "-c", SHARING_ELSEWHERE],
        env={**os.environ, "MULTITASK_NATIVE": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("7\n") and "on this platform" in done.stdout, done.stdout
