"""The fixture that fails a test which leaves something behind does see what is left behind."""

import multiprocessing
import os
import subprocess
import sys
import threading
from multiprocessing import shared_memory

import leftovers
import pytest


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    monkeypatch.setattr(leftovers, "GRACE_SECONDS", 0.1)


def test_nothing_new_is_nothing_left():
    assert leftovers.wait_until_clean(leftovers.look()) == []


def test_a_running_child_is_found_and_named():
    before = leftovers.look()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        left = leftovers.wait_until_clean(before, spared={"fd"})
        child.communicate(b"\n")
    assert len(left) == 1
    assert f"child process {child.pid}" in left[0]
    assert "input()" in left[0]


def test_a_child_that_nobody_reaped_is_found():
    before = leftovers.look()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "pass"], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    left = leftovers.wait_until_clean(before)
    os.waitpid(pid, 0)
    assert len(left) == 1
    assert "not reaped" in left[0]


def test_a_thread_is_found_with_the_line_it_is_at():
    before = leftovers.look()
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, name="left-over")
    thread.start()
    left = leftovers.wait_until_clean(before)
    gate.set()
    thread.join()
    assert len(left) == 1
    assert "thread left-over, at " in left[0]


def test_a_thread_about_to_end_is_waited_for(monkeypatch):
    monkeypatch.setattr(leftovers, "GRACE_SECONDS", 60.0)
    before = leftovers.look()
    looked = threading.Event()
    thread = threading.Thread(target=looked.wait)
    thread.start()
    real_wait = leftovers._wait_for_one

    def wait_for_one(*args):
        looked.set()
        real_wait(*args)

    monkeypatch.setattr(leftovers, "_wait_for_one", wait_for_one)
    assert leftovers.wait_until_clean(before) == []


def test_an_open_descriptor_is_found():
    before = leftovers.look()
    reader, writer = os.pipe()
    left = leftovers.wait_until_clean(before)
    os.close(reader)
    os.close(writer)
    assert [line.split(":")[0] for line in left] == [f"descriptor {fd}" for fd in sorted((reader, writer))]


def test_named_shared_memory_is_found():
    before = leftovers.look()
    memory = shared_memory.SharedMemory(create=True, size=64)
    try:
        left = leftovers.wait_until_clean(before, spared={"fd"})
    finally:
        memory.close()
        memory.unlink()
    assert len(left) == 1
    assert memory.name in left[0]


def test_a_semaphore_with_a_name_is_found_if_this_process_made_it():
    before = leftovers.look()
    lock = multiprocessing.get_context("spawn").Lock()
    other = subprocess.run([sys.executable, "-c", ANOTHERS], input=b"", stdout=subprocess.PIPE, check=True)
    name = f"/dev/shm/{other.stdout.decode().strip()}"
    try:
        left = leftovers.wait_until_clean(before)
        assert os.path.exists(name)
    finally:
        os.unlink(name)
    del lock
    assert len(left) == 1 and f"sem.mp{os.getpid()}-" in left[0]
    assert leftovers.wait_until_clean(before) == []


ANOTHERS = """
import os
name = f"sem.mp-{os.getpid()}"
open(f"/dev/shm/{name}", "w").close()
print(name)
"""


@pytest.mark.leaves_behind("thread")
def test_what_a_test_announces_is_spared():
    before = leftovers.look()
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    assert leftovers.wait_until_clean(before, spared={"thread"}) == []
    gate.set()
    thread.join()
