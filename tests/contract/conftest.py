"""One suite over all kinds of workers, channels and start methods."""

from __future__ import annotations

import signal
import threading

import gates
import pytest
import queue_kinds

from multitask import Executor, Pool, _native

VARIANTS = ["inline", "thread"] + [
    f"process-{channel}-{method}" for channel in ("native", "pipe") for method in ("forkserver", "fork", "spawn")
]


class Variant:
    """One way to run a pool; makes pools and ends those that the test has left running."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind, _, rest = name.partition("-")
        _, _, method = rest.partition("-")
        self.options = {"kind": self.kind, "start_method": method or None}
        self.is_process = self.kind == "process"
        self.has_workers = self.kind != "inline"  # something runs while the caller does other things
        self.made = []

    def pool(self, processes=2, *args, **kwargs):
        pool = Pool(processes, *args, **self.options, **kwargs)
        self.made.append(pool)
        return pool

    def executor(self, max_workers=2, *args, **kwargs):
        return Executor(max_workers, *args, **self.options, **kwargs)

    def end(self) -> None:
        for pool in self.made:
            if pool._dropped.alive:
                pool.terminate()
                pool.join()
        self.made.clear()


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        needs = {mark.name for mark in metafunc.definition.iter_markers()}
        names = [name for name in VARIANTS if _fits(name, needs)]
        metafunc.parametrize("variant", names, indirect=True, scope="function")
    if "flavour" in metafunc.fixturenames:
        needs = {mark.name for mark in metafunc.definition.iter_markers()}
        names = queue_kinds.SHARED if "shared" in needs else queue_kinds.FLAVOURS
        metafunc.parametrize("flavour", names, indirect=True, scope="function")


def _fits(name: str, needs: set[str]) -> bool:
    if "workers" in needs and name == "inline":
        return False
    return name.startswith("process") if "processes" in needs else True


def pytest_configure(config):
    config.addinivalue_line("markers", "workers: the test needs workers beside the caller (not kind='inline')")
    config.addinivalue_line("markers", "shared: the test is about queues that processes share")
    config.addinivalue_line("markers", "processes: the test is about worker processes")


@pytest.fixture
def variant(request, monkeypatch):
    name = request.param
    if "native" in name and not _native.available:
        pytest.skip(_native.why_not)
    if "pipe" in name:
        monkeypatch.setattr(_native, "available", False)
    variant = Variant(name)
    yield variant
    variant.end()


@pytest.fixture
def flavour(request):
    """One kind of Queue: ``flavour.queue(maxsize)``."""
    flavour = queue_kinds.Flavour(request.param)
    yield flavour
    flavour.close()


@pytest.fixture
def pool(variant):
    return variant.pool(2)


@pytest.fixture
def one(variant):
    """A pool with one worker."""
    return variant.pool(1)


@pytest.fixture
def gate(tmp_path):
    keeper = gates.Keeper(tmp_path / "gate")
    yield keeper
    keeper.close()


@pytest.fixture
def interrupt_when():
    """``interrupt_when(wait)``: once ``wait()`` returns, Ctrl-C for the main thread."""
    threads = []

    def start(wait):
        def run():
            wait()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        thread = threading.Thread(target=run)
        threads.append(thread)
        thread.start()

    yield start
    for thread in threads:
        thread.join()
