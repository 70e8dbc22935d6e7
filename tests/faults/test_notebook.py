"""A real Jupyter kernel, driven as a notebook does it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import HANG_SECONDS, METHODS, environment

manager = pytest.importorskip("jupyter_client.manager")
pytest.importorskip("ipykernel")
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

pytestmark = [
    pytest.mark.timeout(120),
    # of the client's own libraries
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.leaves_behind("thread", "fd"),
]


class Notebook:
    """A kernel and its client; ``run(cell)`` gives what the cell printed, and its error's name or None."""

    def __init__(self, kernel: object, client: object) -> None:
        self.kernel, self.client = kernel, client

    def start(self, cell: str) -> str:
        return self.client.execute(cell)

    def finish(self, message: str) -> tuple[str, str | None]:
        text, error = "", None
        while True:
            got = self.client.get_iopub_msg(timeout=HANG_SECONDS)
            if got["parent_header"].get("msg_id") != message:
                continue
            kind, content = got["header"]["msg_type"], got["content"]
            if kind == "stream":
                text += content["text"]
            elif kind == "error":
                error = content["ename"]
            elif kind == "status" and content["execution_state"] == "idle":
                return text, error

    def wait_for(self, message: str, wanted: str) -> None:
        text = ""
        while wanted not in text:
            got = self.client.get_iopub_msg(timeout=HANG_SECONDS)
            if got["header"]["msg_type"] == "stream":
                assert got["parent_header"].get("msg_id") == message, "of another cell"
                text += got["content"]["text"]

    def run(self, cell: str) -> tuple[str, str | None]:
        return self.finish(self.start(cell))


@contextlib.contextmanager
def notebook(folder: Path, channel: str) -> Iterator[Notebook]:
    env = environment(channel, IPYTHONDIR=str(folder / "ipython"), JUPYTER_RUNTIME_DIR=str(folder / "runtime"))
    kernel, client = manager.start_new_kernel(kernel_name="python3", env=env, cwd=str(folder))
    try:
        yield Notebook(kernel, client)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
        kernel.cleanup_resources()


DEFINE = """
import multitask
def work(x):
    return x + 1
pool = multitask.Pool(2, start_method={method!r})
print(pool.map(work, range(5)))
"""


@pytest.mark.parametrize("way", [*(f"{method} native" for method in METHODS), "forkserver pipe"])
def test_a_notebook_defines_maps_redefines_interrupts_and_prints(tmp_path: Path, way: str) -> None:
    method, channel = way.split()
    with notebook(tmp_path, channel) as cells:
        assert cells.run(DEFINE.format(method=method)) == ("[1, 2, 3, 4, 5]\n", None)
        again = "def work(x):\n    return x + 100\nprint(pool.map(work, range(5)))"
        assert cells.run(again) == ("[100, 101, 102, 103, 104]\n", None)

        classes = """
class Point:
    made = []
    def __init__(self, x): self.x = x
back = pool.submit(lambda point: point, Point(3)).result()
print(type(back) is Point, back.x, Point.made)
"""
        assert cells.run(classes) == ("True 3 []\n", None)

        hanging = """
import time
def hang(x):
    time.sleep(1000)
print("begun", flush=True)
pool.map(hang, range(8))
"""
        message = cells.start(hanging)
        cells.wait_for(message, "begun")
        begun = time.monotonic()
        cells.kernel.interrupt_kernel()
        _, error = cells.finish(message)
        assert error == "KeyboardInterrupt"
        took = time.monotonic() - begun
        print(f"{way}: interrupted after {took:.3f} s")
        assert took < 3.0
        assert cells.run("print(pool.map(work, range(3)))") == ("[100, 101, 102]\n", None)

        failing = "def fail(x):\n    raise ValueError('from a cell')\npool.map(fail, [1])"
        assert cells.run(failing)[1] == "ValueError"

        # What a process of its own prints comes when it comes, maybe after the cell has ended.
        message = cells.start("def say(x):\n    print('worker says', x)\npool.submit(say, 7).result()")
        cells.wait_for(message, "worker says 7")
