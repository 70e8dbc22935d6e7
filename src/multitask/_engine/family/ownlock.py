"""A lock that is not waited for by the thread that has it.

The garbage collector runs users' finalizers in the middle of what a lock guards, on the thread that has it. One that
needs the lock would wait for ever; a re-entrant lock would let it see what is half done. It gets an error instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class OwnLock:
    """Between threads a plain lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0

    def try_it(self) -> bool:
        """Have the lock if nobody has it, until ``release``. For finalizers: never waits."""
        if not self._lock.acquire(blocking=False):
            return False
        self._owner = threading.get_ident()
        return True

    def release(self) -> None:
        """Let it go."""
        self._owner = 0
        self._lock.release()

    @contextmanager
    def held(self, doing: str) -> Iterator[None]:
        """Wait for the lock and have it in the block. Raises RuntimeError when this thread has it already."""
        if self._owner == threading.get_ident():
            raise RuntimeError(
                f"a finalizer ran in the middle of its own thread's work ({doing}) and needs the same; "
                "let a finalizer put what it has to hand out on a thread of its own"
            )
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = 0
