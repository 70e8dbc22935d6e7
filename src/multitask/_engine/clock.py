"""The clock: the only module that reads the time, so that a test can put another one in its place.

Everybody calls ``clock.monotonic()`` through the module and keeps no reference to the function itself.
"""

from __future__ import annotations

import time


def monotonic() -> float:
    """Seconds that only go forward and are the same in all processes of this machine; for timeouts and ages."""
    return time.monotonic()


def wall() -> float:
    """Seconds since 1970 as people count them; for showing and for the times of files, never for waiting."""
    return time.time()
