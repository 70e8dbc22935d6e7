"""What becomes of processes that still run when their parent ends in order: shutdown.py asks, here is what one answers.

Owner: the thread that ends the program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multitask._engine import shutdown

if TYPE_CHECKING:
    from multitask._engine.processes.launch import Launched


class _NoCallbacks:
    def ensure(self) -> None:
        pass

    def drain(self, timeout: float | None = None) -> bool:
        return True


class Leaving:
    """One process, as the end of the program sees it: like the engine of a pool with one task."""

    callbacks = _NoCallbacks()

    def __init__(self, launched: Launched, name: str, *, bound: bool) -> None:
        self._launched = launched
        self.name = name
        self._bound = bound
        self._asked = False
        shutdown.register(self)

    @property
    def core(self) -> Leaving:
        return self

    @property
    def unfinished(self) -> int:
        return int(self._launched.poll() is None and not (self._bound and self._asked))

    def pending(self) -> list[Any]:
        return [self] if self.unfinished else []

    def finish(self) -> None:
        """Nothing more is coming: one that is bound ends now."""
        if self._bound:
            self.terminate()

    def terminate(self) -> None:
        """Ask it to end."""
        if not self._asked:
            self._asked = True
            self._launched.terminate()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for its end; whether it came within *timeout* seconds. One that was asked to end has 1.5 s."""
        if self._asked and timeout is None and self._launched.wait(shutdown.STOP_SECONDS) is None:
            self._launched.kill_tree()
        return self._launched.wait(timeout) is not None

    def report(self) -> None:
        """The last word: what was asked to end and has not is killed with its tree."""
        if self._asked and self._launched.poll() is None:
            self._launched.kill_tree()
            self._launched.wait(shutdown.STOP_SECONDS)

    def forget(self) -> None:
        """It has ended."""
        shutdown.forget(self)

    def disown(self) -> None:
        """In a forked child: it is the parent's."""
