"""What the server does with its queue: puts and takes that never block, and waiting for the moment in a coroutine."""

from __future__ import annotations

import asyncio
import builtins
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from multitask._engine import clock
from multitask._engine.queueing import awaiting
from multitask._engine.queueing.remote import frames, sealed
from multitask.errors import TimeoutError

if TYPE_CHECKING:
    from multitask._engine.queueing.interface import Queue

JOIN_SLICE_SECONDS = 0.5
FEW = 16  # items that are taken at a time, when many are wanted: so many may be larger than those before


def seconds(timeout: float) -> float | None:
    """A timeout as it came over the wire, for ``awaiting``."""
    if timeout == frames.FOREVER:
        return None
    return max(timeout, 0.0)


class Desk:
    """The served queue, for the server's own thread. *objects*: it holds objects, not bytes (a LocalQueue)."""

    def __init__(self, queue: Queue, objects: bool) -> None:
        self.queue = queue
        self.objects = objects
        self.joining: asyncio.Future[None] | None = None
        self.left: list[Any] = []  # what could not go back, for the queue was shut down meanwhile

    # --- at once -----------------------------------------------------------------------------------------

    def item(self, data: frames.Buffer) -> Any:
        """What to put for *data* from an authenticated client."""
        return sealed.open_sealed(data) if self.objects else sealed.Parcel(data)

    def data(self, item: Any) -> frames.Message:
        """What to send for an item that was taken."""
        return [item.data] if isinstance(item, sealed.Parcel) else sealed.seal(item)

    def take(self, most: int) -> list[Any]:
        """Up to *most* items, at least one; Empty."""
        if self.left:
            items, self.left = self.left[:most], self.left[most:]
            return items
        with sealed.unopened():
            return self.queue.get_many(most, block=False)

    def answer(self, most: int, first: list[Any]) -> tuple[list[Any], list[frames.Message], Exception | None]:
        """*first* and what else there is, up to *most* items and about MOST_BYTES, as items and as messages.

        How large an item is shows when it has been taken, so a few are taken at a time. One that cannot travel is left
        out; it comes as the error.
        """
        items: list[Any] = []
        messages: list[frames.Message] = []
        wrong = None
        total = largest = 0
        taken = first
        while taken:
            for item in taken:
                try:
                    message = self.data(item)
                except Exception as error:
                    wrong = error
                    continue
                items.append(item)
                messages.append(message)
                total += frames.size(message)
                largest = max(largest, frames.size(message))
            room = min(most - len(items), FEW, (frames.MOST_BYTES - total) // max(largest, 1))
            if wrong is not None or room < 1:
                break
            try:
                taken = self.take(room)
            except Exception:  # empty, or another answer's to say
                break
        return items, messages, wrong

    def number(self, what: int, given: float) -> int:
        """The answer to a CALL that never waits."""
        queue = self.queue
        if what == frames.QSIZE:
            return queue.qsize() + len(self.left)
        if what == frames.PUT_COUNT:
            return queue.put_count
        if what == frames.GOT_COUNT:
            return queue.got_count
        if what == frames.UNFINISHED:
            return queue.unfinished_tasks
        if what == frames.IS_SHUTDOWN:
            return int(queue.is_shutdown)
        if what in (frames.WAITING_TO_GET, frames.WAITING_TO_PUT):
            return queue._waiting()[what - frames.WAITING_TO_GET]
        if what == frames.TASK_DONE:
            queue.task_done(int(given))
        elif what == frames.SHUTDOWN:
            queue.shutdown(bool(given))
            if given:
                self.left.clear()
        else:
            raise ValueError(f"the client asks for {what}, which this server does not know")
        return 0

    # --- with patience -----------------------------------------------------------------------------------

    async def put(self, items: list[Any], done: int, timeout: float) -> int:
        """*items* from *done* on, in their order. How many are in is in an error's attribute ``done``."""

        def attempt() -> None:
            nonlocal done
            try:
                done += self.queue.put_many(items[done:], block=False)
            except BaseException as error:
                done += getattr(error, "done", 0)
                raise

        try:
            await awaiting.patiently(self.queue, False, attempt, self.queue.Full, seconds(timeout))
        except BaseException as error:
            error.done = done  # type: ignore[attr-defined]
            raise
        return done

    async def get(self, most: int, timeout: float) -> list[Any]:
        """A few, as soon as there is something; what it takes it returns without another ``await``."""
        return await awaiting.patiently(  # type: ignore[no-any-return]
            self.queue, True, lambda: self.take(min(most, FEW)), self.queue.Empty, seconds(timeout)
        )

    async def readable(self, timeout: float) -> bool:
        return await self._when(True, self.queue.Empty, lambda: self.queue.empty() and not self.left, timeout)

    async def writable(self, timeout: float) -> bool:
        return await self._when(False, self.queue.Full, self.queue.full, timeout)

    async def _when(self, to_get: bool, not_yet: type[Exception], unmet: Callable[[], bool], timeout: float) -> bool:
        def attempt() -> None:
            if unmet() and not self.queue.is_shutdown:
                raise not_yet

        try:
            await awaiting.patiently(self.queue, to_get, attempt, not_yet, seconds(timeout))
        except not_yet:
            return False
        return True

    async def join(self, timeout: float) -> None:
        """``Queue.join``, with one thread for all who wait for it."""
        if self.queue.unfinished_tasks == 0:
            return
        loop = asyncio.get_running_loop()
        if self.joining is None:
            self.joining = loop.create_future()
            thread = threading.Thread(target=self._join, args=(loop, self.joining), daemon=True)
            thread.name = "multitask-serve-join"
            thread.start()
        try:
            async with asyncio.timeout(seconds(timeout)):
                await asyncio.shield(self.joining)
        except builtins.TimeoutError:
            raise TimeoutError(f"{self.queue.unfinished_tasks} items were not dealt with in {timeout:g} s") from None

    def _join(self, loop: asyncio.AbstractEventLoop, joining: asyncio.Future[None]) -> None:
        joined = False
        while not joined and not loop.is_closed():
            try:
                self.queue.join(JOIN_SLICE_SECONDS)
                joined = True
            except TimeoutError:
                pass
        try:
            loop.call_soon_threadsafe(self._joined, joining)
        except RuntimeError:  # the server was closed
            pass

    def _joined(self, joining: asyncio.Future[None]) -> None:
        self.joining = None
        if not joining.done():
            joining.set_result(None)

    # --- what comes back ---------------------------------------------------------------------------------

    async def put_back(self, items: list[Any], timeout: float = frames.FOREVER) -> None:
        """Items that a client was sent and never took: at the end of the queue, as if put now; before everything for
        other clients when the queue takes nothing more. Raises Full after *timeout*; ``left`` has the rest then."""
        end = clock.monotonic() + timeout
        for at, item in enumerate(items):
            rest = frames.FOREVER if timeout == frames.FOREVER else max(end - clock.monotonic(), 0)
            try:
                await self.put([item], 0, rest)
                self.queue.task_done()  # the first time that it was put
            except (self.queue.ShutDown, ValueError):
                self.left.append(item)
            except BaseException:
                self.left += items[at:]
                raise
