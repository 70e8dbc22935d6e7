"""Each test here runs in a forked process of its own: the millions of states it goes through stay behind as fragments
of memory, and every fork that a later test of the same process makes would copy their page tables."""

from __future__ import annotations

import os
import signal
import sys
import traceback

import pytest

from multitask._engine.workers import forking


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not hasattr(os, "fork"):
        return None
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = forking.fork()
    if pid == 0:
        _run(pyfuncitem, write)
    os.close(write)
    try:
        with os.fdopen(read, "rb") as file:
            said = file.read().decode()
    except BaseException:  # its time is up
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        pytest.fail(said or f"its process ended with {status}", pytrace=False)
    return True


def _run(test: pytest.Function, write: int) -> None:
    status = 1
    try:
        test.obj(**{name: test.funcargs[name] for name in test._fixtureinfo.argnames})
        status = 0
    except BaseException:
        os.write(write, traceback.format_exc().encode())
    finally:
        sys.stdout.flush()
        os._exit(status)
