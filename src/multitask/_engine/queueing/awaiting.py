"""``await q.aput()`` and ``await q.aget()``: one thread a queue and direction waits for all coroutines of the process.

    coroutine: try at once ─ Full/Empty ─► stand in its loop's line ──► turn ──► try ──► pass the turn on, return
                                              ▲                          ▲
                                              │ asks for a turn          │ gives one to each loop
                                           waiter thread, asleep in q.wait_readable() or q.wait_writable()

Owner of lines and turns: who holds ``_lock``. Rule: something is taken from the queue only by ``get_nowait`` on the
loop's own thread, after the last ``await``: cancelling a coroutine before that takes nothing, and after that it has
returned. Who has the turn and leaves without using it passes it on. A loop has one turn at a time, so nothing spins.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from multitask._engine import clock

if TYPE_CHECKING:
    from multitask._engine.queueing.interface import Queue

# What nobody announces is looked for this often while somebody waits: a loop that was closed under its coroutines,
# and the last coroutine's leaving while the thread sleeps in the queue.
SLICE_SECONDS = 0.5

# Reentrant, for the collector may end a forgotten coroutine anywhere, also while this thread holds it.
_lock = threading.RLock()
_watches: dict[tuple[int, bool], Watch] = {}


async def aget(queue: Queue, timeout: float | None = None) -> Any:
    """``Queue.aget`` of every flavour whose ``get_nowait`` does not block; a negative *timeout* counts as 0."""
    return await patiently(queue, True, queue.get_nowait, queue.Empty, timeout)


async def aput(queue: Queue, obj: Any, timeout: float | None = None) -> None:
    """``Queue.aput`` of every flavour whose ``put_nowait`` does not block; a negative *timeout* counts as 0."""
    await patiently(queue, False, lambda: queue.put_nowait(obj), queue.Full, timeout)


async def patiently(
    queue: Queue, to_get: bool, attempt: Callable[[], Any], not_yet: type[Exception], timeout: float | None
) -> Any:
    """Call *attempt* until it does not raise *not_yet*: whenever *queue* may have changed, on the loop's own thread."""
    try:
        return attempt()
    except not_yet:
        if timeout is not None and timeout <= 0:
            raise
    end = None if timeout is None else clock.monotonic() + timeout
    home = running_loop()
    again = False
    while True:
        waiter = Waiter(home.event())
        watch = _join(queue, to_get, home, waiter, first=again)
        try:
            await home.wait(waiter.event, None if end is None else max(end - clock.monotonic(), 0))
        except BaseException:
            watch.leave(home, waiter)
            watch.pass_on(home)
            raise
        watch.leave(home, waiter)
        try:
            if waiter.error is not None:
                raise waiter.error
            return attempt()
        except not_yet:
            if end is not None and clock.monotonic() >= end:
                raise
            again = True  # somebody else was faster: the next turn of this loop is mine
        finally:
            if not again:
                watch.pass_on(home)


# --- the event loops ----------------------------------------------------------------------------------------


class Home(Protocol):
    """The event loop of a coroutine, as a waiter thread sees it."""

    key: Any

    def event(self) -> Any:
        """Something to wait for; called in the loop."""

    def set(self, event: Any) -> None:
        """Let who waits for *event* go on; from any thread. RuntimeError when the loop is no more."""

    def set_here(self, event: Any) -> None:
        """The same, on the loop's own thread."""

    def gone(self) -> bool:
        """Whether the loop is no more."""

    async def wait(self, event: Any, seconds: float | None) -> None:
        """Until it is set or *seconds* have passed."""


class AsyncioHome:
    """A running asyncio loop, or one that behaves as one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.key = loop

    def event(self) -> asyncio.Future[None]:
        return self.key.create_future()

    def set(self, event: asyncio.Future[None]) -> None:
        self.key.call_soon_threadsafe(_resolve, event)

    def set_here(self, event: asyncio.Future[None]) -> None:
        _resolve(event)

    def gone(self) -> bool:
        return self.key.is_closed()

    async def wait(self, event: asyncio.Future[None], seconds: float | None) -> None:
        timer = None if seconds is None else self.key.call_later(seconds, _resolve, event)
        try:
            await event
        finally:
            if timer is not None:
                timer.cancel()


def _resolve(event: asyncio.Future[None]) -> None:
    if not event.done():
        event.set_result(None)


class TrioHome:
    """A running trio loop, also under anyio."""

    def __init__(self, trio: Any) -> None:
        self.trio = trio
        self.key = trio.lowlevel.current_trio_token()

    def event(self) -> Any:
        return self.trio.Event()

    def set(self, event: Any) -> None:
        self.key.run_sync_soon(event.set)  # RunFinishedError is a RuntimeError

    def set_here(self, event: Any) -> None:
        event.set()

    def gone(self) -> bool:
        try:
            self.key.run_sync_soon(int)
        except RuntimeError:
            return True
        return False

    async def wait(self, event: Any, seconds: float | None) -> None:
        with self.trio.move_on_after(float("inf") if seconds is None else seconds):
            await event.wait()


def running_loop() -> Home:
    """The event loop that runs on this thread."""
    try:
        return AsyncioHome(asyncio.get_running_loop())
    except RuntimeError:
        trio = sys.modules.get("trio")
    try:
        if trio is not None:
            return TrioHome(trio)
    except RuntimeError:
        pass  # imported, and not what runs here
    raise RuntimeError("aget() and aput() wait in an event loop of asyncio or trio; here none runs")


# --- lines and turns ----------------------------------------------------------------------------------------


class Waiter:
    """One coroutine that waits; ``error``: why waiting itself failed."""

    __slots__ = ("error", "event")

    def __init__(self, event: Any) -> None:
        self.event = event
        self.error: BaseException | None = None


class Line:
    """The coroutines of one loop that wait for the same thing; ``turn`` is the one that may try now."""

    __slots__ = ("home", "turn", "waiting")

    def __init__(self, home: Home) -> None:
        self.home = home
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()
        self.turn: Waiter | None = None


def _join(queue: Queue, to_get: bool, home: Home, waiter: Waiter, *, first: bool) -> Watch:
    """Put *waiter* into its loop's line, and see that a thread watches *queue*."""
    with _lock:
        watch = _watches.get((id(queue), to_get))
        if watch is None:
            watch = Watch(queue, to_get)
            watch.thread.start()
            _watches[id(queue), to_get] = watch
        watch.join(home, waiter, first)
        return watch


class Watch:
    """The thread that waits for one queue in one direction, and the lines of the loops it waits for."""

    def __init__(self, queue: Queue, to_get: bool) -> None:
        self.queue = queue
        self.to_get = to_get
        self.lines: dict[Any, Line] = {}
        self.changed = threading.Condition(_lock)
        name = f"multitask-await-{'get' if to_get else 'put'}"
        self.thread = threading.Thread(target=self.run, name=name, daemon=True)

    # --- on a loop's thread ------------------------------------------------------------------------------

    def join(self, home: Home, waiter: Waiter, first: bool) -> None:
        line = self.lines.get(home.key)
        if line is None:
            line = self.lines[home.key] = Line(home)
        line.waiting[waiter] = None
        if first:
            line.waiting.move_to_end(waiter, last=False)
        self.changed.notify()

    def leave(self, home: Home, waiter: Waiter) -> None:
        with _lock:
            line = self.lines.get(home.key)
            if line is not None:
                line.waiting.pop(waiter, None)
                if line.turn is waiter:
                    line.turn = None

    def pass_on(self, home: Home) -> None:
        """The next of this loop tries at once if that is worth it; otherwise the thread looks for the moment."""
        with _lock:
            line = self.lines.get(home.key)
            if line is None or line.turn is not None:
                return
            if not line.waiting:
                self.lines.pop(home.key, None)
            elif self.worth_a_try():
                self.give(line, here=True)
            self.changed.notify()

    def worth_a_try(self) -> bool:
        queue = self.queue
        if queue.is_shutdown or queue.closed:
            return True
        return not queue.empty() if self.to_get else not queue.full()

    def give(self, line: Line, here: bool = False) -> None:
        try:
            waiter, _ = line.waiting.popitem(last=False)
        except KeyError:  # the last one has just been ended by the collector
            return
        line.turn = waiter
        try:
            line.home.set_here(waiter.event) if here else line.home.set(waiter.event)
        except RuntimeError:  # the loop was closed, and its coroutines are no more
            self.lines.pop(line.home.key, None)

    # --- on the thread of its own ------------------------------------------------------------------------

    def run(self) -> None:
        try:
            while self.step():
                pass
        except Exception as error:
            self.fail(error)

    def step(self) -> bool:
        """Wait for something to do and do it; False when the thread is to end."""
        with _lock:
            # Copies: a coroutine that the collector ends in here leaves.
            for key, line in list(self.lines.items()):
                if line.home.gone():
                    self.lines.pop(key, None)
            if not any(line.waiting and line.turn is None for line in list(self.lines.values())):
                # Nobody is there, or each loop has a turn that it has not used yet.
                if self.changed.wait(SLICE_SECONDS) or self.lines:
                    return True
                del _watches[id(self.queue), self.to_get]
                return False
        wait = self.queue.wait_readable if self.to_get else self.queue.wait_writable
        if wait(SLICE_SECONDS):
            with _lock:
                for line in list(self.lines.values()):
                    if line.turn is None and line.waiting:
                        self.give(line)
        return True

    def fail(self, error: Exception) -> None:
        """Waiting itself raised *error* (the connection was lost, say): everybody who waits gets it."""
        with _lock:
            del _watches[id(self.queue), self.to_get]
            for line in list(self.lines.values()):
                for waiter in list(line.waiting):
                    waiter.error = error
                while line.waiting:
                    self.give(line)


def _forked() -> None:
    # The threads are the parent's, and so are the loops.
    global _lock
    _lock = threading.RLock()
    _watches.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
