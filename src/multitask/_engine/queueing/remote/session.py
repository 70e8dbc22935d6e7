"""What the server knows about one client: which of its requests run, and what was answered and not confirmed. Pure.

Rule: a number stands for one request for ever. It is begun once, however often it is sent; its answer is kept until
the client has said that it has it; messages that were sent and not confirmed are given out again exactly once, by
whoever learns first that the client does not want them.

    begin ──► running ──┬──► answered (DONE, FAILED) ─────────────────────────────┬──► forgotten
                        └──► held (MESSAGES) ── receipt ──► handed over (YOURS) ──┘
              running or held ── cancel, resume without it, end ──► stopped, or its messages go back
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from multitask._engine.queueing.remote import frames

Reply = tuple[int, tuple[frames.Buffer, ...]]


class Request:
    """One request; ``stop`` ends it while it runs, ``held`` is what would go back into the queue."""

    __slots__ = ("held", "reply", "stop")

    def __init__(self, stop: Callable[[], object]) -> None:
        self.stop = stop
        self.reply: Reply | None = None
        self.held: list[Any] = []


class Session:
    """The requests of one client, across all its connections."""

    def __init__(self) -> None:
        self.requests: dict[int, Request] = {}
        self.lowest = 0

    def again(self, number: int) -> bool:
        """Whether *number* was begun before: nothing is to be done but send its answer, if there is one."""
        return number in self.requests or number < self.lowest

    def reply(self, number: int) -> Reply | None:
        """The answer to *number*, if there is one by now."""
        request = self.requests.get(number)
        return request.reply if request else None

    def begin(self, number: int, stop: Callable[[], object]) -> None:
        self.requests[number] = Request(stop)

    def answer(self, number: int, kind: int, *content: frames.Buffer, held: Iterable[Any] = ()) -> bool:
        """Keep the answer; False when nobody wants it any more: *held* is the caller's to put back."""
        request = self.requests.get(number)
        if request is None:
            return False
        request.reply = (kind, content)
        request.held = list(held)
        return True

    def receipt(self, number: int) -> Reply:
        """The client has the messages of *number*: they are its own from here on, also if it hears this twice."""
        request = self.requests.get(number)
        if request is not None and request.held:
            request.held = []
            request.reply = (frames.YOURS, ())
        return (frames.YOURS, ())

    def cancel(self, number: int) -> list[Any]:
        """The client does not want *number*: what is to go back into the queue."""
        request = self.requests.pop(number, None)
        if request is None:
            return []
        if request.reply is None:
            request.stop()
        return request.held

    def forget_below(self, lowest: int) -> list[Any]:
        """The client has everything below *lowest*, or gave it up. What is to go back into the queue."""
        if lowest <= self.lowest:
            return []
        self.lowest = lowest
        return self._cancel_all(number for number in self.requests if number < lowest)

    def resume(self, wanted: set[int]) -> list[Any]:
        """The client is here again and waits for *wanted* only."""
        return self._cancel_all(number for number in self.requests if number not in wanted)

    def end(self) -> list[Any]:
        """The client will not come back."""
        return self._cancel_all(self.requests)

    def _cancel_all(self, numbers: Iterable[int]) -> list[Any]:
        return [item for number in sorted(numbers) for item in self.cancel(number)]
