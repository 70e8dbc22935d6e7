"""``Queue.connect()``: the whole interface of a queue that another process or machine serves."""

from __future__ import annotations

import operator
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from multitask._engine import clock, patience
from multitask._engine.queueing import awaiting
from multitask._engine.queueing.interface import Empty, Full, Queue, ShutDown, closed_error
from multitask._engine.queueing.remote import frames, sealed
from multitask._engine.queueing.remote.line import Ask, Line
from multitask.errors import CannotTravel, ConnectionLost, MultitaskError, TimeoutError

BATCH, BATCH_BYTES = 256, 1 << 20  # of one PUT of put_many
SLACK_SECONDS = 1.0  # how long after its timeout a get gives up by itself: the server may be out of reach
SMALL_BYTES = 1 << 16  # what a coroutine sends itself; more goes out from a thread


class RemoteQueue(Queue):
    """A queue that lives in another process or on another machine. Made by ``Queue.connect``.

    All threads share one connection. A lost one is made again; what was under way is neither lost nor done twice
    (docs/queues-between-machines.md says where that ends). ``disconnect`` ends it, also at the end of a ``with`` block.
    """

    __slots__ = ("__weakref__", "_closed", "_end", "_line")

    def __new__(cls, *_: Any, **__: Any) -> RemoteQueue:
        return object.__new__(cls)

    def __init__(self, address: tuple[str, int], key: bytes, timeout: float | None = None) -> None:
        self._closed = False
        self._line = Line(address, key, timeout)
        self._line.connect(self._line.patience, once=timeout is None)
        self._end = weakref.finalize(self, self._line.hang_up)

    def disconnect(self) -> None:
        """End the connection; every use raises ConnectionLost after it. The queue itself stays as it is."""
        while kept := self._line.take_kept(BATCH):
            self._do(Ask(frames.PUT, frames.put_content(frames.FOREVER, [[each] for each in kept]), repeatable=False))
        self._end()

    def __enter__(self) -> RemoteQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    # --- asking ------------------------------------------------------------------------------------------

    def _do(self, ask: Ask, seconds: float | None = None) -> Ask:
        """*ask*, answered; Empty when *seconds* and some more have passed and nothing has come."""
        done = threading.Lock()
        done.acquire()
        ask.call = done.release
        try:
            self._line.ask(ask)
            if seconds is None or not patience.acquire(done, seconds + SLACK_SECONDS):
                if seconds is not None and not self._line.may_still_come(ask):
                    raise Empty
                patience.acquire(done, None)
        except BaseException:
            self._line.give_up(ask)
            raise
        return self._checked(ask)

    async def _await(self, ask: Ask) -> Ask:
        """The same for a coroutine. Whatever may block happens on another thread."""
        home = awaiting.running_loop()
        event = home.event()
        ask.call = lambda: self._tell(home, event, ask)
        try:
            if self._line.connected() and sum(map(len, ask.content)) <= SMALL_BYTES:
                self._line.ask(ask)
            else:
                threading.Thread(target=self._ask, args=(ask,), name="multitask-remote-ask", daemon=True).start()
            await home.wait(event, None)
        except BaseException:
            self._line.give_up(ask)
            raise
        return self._checked(ask)

    def _ask(self, ask: Ask) -> None:
        try:
            self._line.ask(ask)
        except Exception as error:
            ask.error = error
            ask.call()

    def _tell(self, home: awaiting.Home, event: Any, ask: Ask) -> None:
        try:
            home.set(event)
        except RuntimeError:  # the loop was closed over the coroutine
            self._line.give_up(ask)

    def _checked(self, ask: Ask) -> Ask:
        if ask.error is not None:
            if ask.items is not None and isinstance(ask.error, ConnectionLost):
                ask.error.items = [sealed.open_sealed(data) for data in frames.unpack_items(ask.items)]
            raise ask.error
        assert ask.reply is not None
        if ask.reply[0] == frames.FAILED:
            raise _error(*frames.read_failed(ask.reply[1]))
        return ask

    def _call(self, what: int, given: float = 0, *, repeatable: bool = True) -> int:
        ask = self._do(Ask(frames.CALL, [frames.call_content(what, given)], repeatable=repeatable))
        assert ask.reply is not None
        return frames.read_number(ask.reply[1])

    def _refuse_closed(self) -> None:
        if self._closed:
            raise closed_error(self)

    # --- one item ----------------------------------------------------------------------------------------

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        self._refuse_closed()
        self._do(_put([sealed.seal(obj)], _wire(block, timeout)))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return self._get(1, block, timeout)[0]

    async def aput(self, obj: Any, timeout: float | None = None) -> None:
        """``put`` for coroutines. One that is cancelled while it is under way may have been put all the same."""
        self._refuse_closed()
        await self._await(_put([sealed.seal(obj)], _wire(True, timeout)))

    async def aget(self, timeout: float | None = None) -> Any:
        self._refuse_closed()
        data = self._line.take_kept(1)
        if not data:
            data = _messages(await self._await(_get(_wire(True, timeout), 1)))
        return _opened(data)[0]

    # --- many --------------------------------------------------------------------------------------------

    def put_many(self, iterable: Iterable[Any], block: bool = True, timeout: float | None = None) -> int:
        self._refuse_closed()
        end = None if timeout is None else clock.monotonic() + timeout
        batch: list[frames.Message] = []
        done = size = 0

        def send() -> None:
            nonlocal done, size
            if batch:
                rest = None if end is None else max(end - clock.monotonic(), 0)
                count, size = len(batch), 0
                ask = _put(batch.copy(), _wire(block, rest))
                batch.clear()
                self._do(ask)
                done += count

        try:
            try:
                for obj in iterable:
                    data = sealed.seal(obj)
                    batch.append(data)
                    size += frames.size(data)
                    if len(batch) >= BATCH or size >= BATCH_BYTES:
                        send()
            finally:
                send()  # also what came before an item that cannot travel
        except BaseException as error:
            error.done = done + getattr(error, "done", 0)  # type: ignore[attr-defined]
            raise
        return done

    def get_many(self, most: int | None = None, block: bool = True, timeout: float | None = None) -> list[Any]:
        limit = sys.maxsize if most is None else operator.index(most)
        if limit < 1:
            raise ValueError("'most' must be at least 1")
        return self._get(limit, block, timeout)

    def _get(self, most: int, block: bool, timeout: float | None) -> list[Any]:
        self._refuse_closed()
        wire = _wire(block, timeout)
        data = self._line.take_kept(most)
        if not data:
            seconds = None if wire == frames.FOREVER else max(wire, 0.0)
            data = _messages(self._do(_get(wire, most), seconds))
            self._get_rest(data, most)
        return _opened(data)

    def _get_rest(self, data: list[memoryview], most: int) -> None:
        """An answer that was full may not have been all there is: append to *data* what else there is at once."""
        last = data
        while len(data) < most and frames.is_full(last, len(last)):
            try:
                last = _messages(self._do(_get(frames.NEVER, most - len(data)), 0.0))
            except (Empty, ShutDown):
                return
            except ConnectionLost as error:
                if error.items is None:  # the next call says so: these are ours
                    return
                error.items = [*_opened(data), *error.items]
                raise
            except BaseException:
                self._line.keep(data)  # Ctrl-C: for the next who gets
                raise
            data += last

    # --- how it stands -----------------------------------------------------------------------------------

    @property
    def maxsize(self) -> int:
        return self._line.maxsize

    @property
    def put_count(self) -> int:
        return self._call(frames.PUT_COUNT)

    @property
    def got_count(self) -> int:
        return self._call(frames.GOT_COUNT) - len(self._line.kept)

    @property
    def unfinished_tasks(self) -> int:
        return self._call(frames.UNFINISHED)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def is_shutdown(self) -> bool:
        return bool(self._call(frames.IS_SHUTDOWN))

    def qsize(self) -> int:
        return self._call(frames.QSIZE) + len(self._line.kept)

    def wait_readable(self, timeout: float | None = None) -> bool:
        return bool(self._line.kept) or bool(self._call(frames.WAIT_READABLE, _wire(True, timeout)))

    def wait_writable(self, timeout: float | None = None) -> bool:
        return bool(self._call(frames.WAIT_WRITABLE, _wire(True, timeout)))

    def _waiting(self) -> tuple[int, int]:
        return self._call(frames.WAITING_TO_GET), self._call(frames.WAITING_TO_PUT)

    def __repr__(self) -> str:
        host, port = self._line.address
        states = [*(["connected"] if self._line.connected() else ["no connection"]), *(["closed here"] * self._closed)]
        return f"<Queue at {host}:{port}, {', '.join(states)}>"

    # --- work that is done -------------------------------------------------------------------------------

    def task_done(self, count: int = 1) -> None:
        self._call(frames.TASK_DONE, operator.index(count), repeatable=False)

    def join(self, timeout: float | None = None) -> None:
        self._call(frames.JOIN, _wire(True, timeout))

    # --- the end -----------------------------------------------------------------------------------------

    def shutdown(self, immediate: bool = False) -> None:
        self._call(frames.SHUTDOWN, bool(immediate))

    def close(self) -> None:
        self._closed = True

    def __reduce__(self) -> NoReturn:
        raise CannotTravel(
            "the connection to a queue cannot be sent to another process: its authkey would go with it",
            fix="call Queue.connect(address, authkey=…) there",
        )


def _wire(block: bool, timeout: float | None) -> float:
    if not block:
        return frames.NEVER
    return frames.FOREVER if timeout is None else max(float(timeout), 0.0)


def _put(items: list[frames.Message], wire: float) -> Ask:
    return Ask(frames.PUT, frames.put_content(wire, items), repeatable=False)


def _get(wire: float, most: int) -> Ask:
    return Ask(frames.GET, [frames.get_content(wire, most)], repeatable=True)


def _messages(ask: Ask) -> list[memoryview]:
    assert ask.reply is not None
    return frames.unpack_items(ask.reply[1])


def _opened(data: list[memoryview]) -> list[Any]:
    """The objects; when one of them cannot be opened, the others are in the error's attribute ``items``."""
    items, wrong = [], None
    for each in data:
        try:
            items.append(sealed.open_sealed(each))
        except Exception as error:
            wrong = wrong or error
    if wrong is not None:
        wrong.items = items  # type: ignore[attr-defined]
        raise wrong
    return items


def _error(why: int, done: int, text: str) -> Exception:
    kinds: dict[int, Callable[[], Exception]] = {
        frames.FULL: Full,
        frames.EMPTY: Empty,
        frames.SHUT: ShutDown,
        frames.VALUE: lambda: ValueError(text),
        frames.MEMORY: lambda: MemoryError(text),
        frames.LATE: lambda: TimeoutError(text),
    }
    error = kinds.get(why, lambda: MultitaskError("the queue's server could not do it", why=text))()
    error.done = done  # type: ignore[attr-defined]
    return error
