"""What every test is held to: it leaves no child process, thread, descriptor or named shared memory behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import leftovers
import pytest

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Started in the background by a shell without job control: the Ctrl-C that tests send must count here, too,
    # and in the programs they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    """Says which core the tests run on, so that a missing compiler is never overlooked."""
    from multitask import _native

    return [f"native core: {'yes' if _native.available else f'NO, {_native.why_not}'}"]


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare what this process owns before and after the test and its other fixtures."""
    before = leftovers.look()
    yield
    marker = request.node.get_closest_marker("leaves_behind")
    spared = set(marker.args) if marker else set()
    left = leftovers.wait_until_clean(before, spared)
    if left:
        pytest.fail("the test left behind:\n" + "\n".join(f"  {line}" for line in left), pytrace=False)
