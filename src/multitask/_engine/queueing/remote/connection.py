"""One connection of an authenticated client, at the server: reads its frames and starts what they ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from multitask._engine.queueing.remote import frames
from multitask._engine.queueing.remote.desk import FEW, Desk
from multitask._engine.queueing.remote.stream import Stream
from multitask.errors import CannotTravel, TimeoutError

if TYPE_CHECKING:
    from multitask._engine.queueing.remote.server import Server


class Answer(NamedTuple):
    """A frame for the client; ``held`` goes back into the queue if the client never takes it."""

    kind: int
    content: Sequence[frames.Buffer]
    held: Sequence[Any] = ()


class Connection:
    """Reads until the client goes. Raises EOFError, OSError, or ValueError for what no client of ours sends."""

    def __init__(self, server: Server, stream: Stream, session_key: bytes) -> None:
        self.server = server
        self.stream = stream
        self.session_key = session_key
        self.away = server.sessions[session_key]
        self.session = self.away.session
        self.said_bye = False

    async def read(self) -> None:
        while not self.said_bye:
            head = frames.read_head(await self.stream.exactly(frames.HEAD_BYTES))
            if not (frames.PUT <= head.kind <= frames.BYE or head.kind == frames.BEAT):
                raise ValueError("not a frame of ours")
            content = await self.stream.exactly(head.length) if head.length else b""
            self.server.give_back(self.session.forget_below(head.lowest))
            self.take(head.kind, head.number, content)

    def beat(self) -> None:
        """Say that somebody is here, unless something is on its way that says so."""
        if not self.stream.transport.get_write_buffer_size():
            self.stream.write(frames.parts(frames.BEAT, 0, 0))

    def take(self, kind: int, number: int, content: frames.Buffer) -> None:
        session, back = self.session, self.server.give_back
        if kind == frames.BEAT:
            pass
        elif kind == frames.BYE:
            self.said_bye = True
        elif kind == frames.RESUME:
            back(session.resume(frames.read_resume(content)))
        elif kind == frames.CANCEL:
            back(session.cancel(number))
        elif kind == frames.RECEIPT:
            self.away.send(number, *session.receipt(number))
        elif session.again(number):
            reply = session.reply(number)
            if reply is not None:
                self.away.send(number, *reply)
        else:
            self.begin(kind, number, content)

    def begin(self, kind: int, number: int, content: frames.Buffer) -> None:
        """Answer at once where that can be; otherwise a task does, whatever becomes of this connection."""
        task: list[asyncio.Task[Any]] = []
        self.session.begin(number, lambda: [each.cancel() for each in task])
        try:
            answer = self.work(kind, content)
        except Exception as error:
            answer = self.failure(error)
        if isinstance(answer, Answer):
            self.settle(number, answer)
        else:
            task.append(self.server.start(self.later(number, answer)))

    async def later(self, number: int, work: Coroutine[Any, Any, Answer]) -> None:
        try:
            answer = await work
        except Exception as error:
            answer = self.failure(error)
        self.settle(number, answer)

    def settle(self, number: int, answer: Answer) -> None:
        kind, content, held = answer
        if self.session.answer(number, kind, *content, held=held):
            self.away.send(number, kind, content)
        else:
            self.server.give_back(list(held))

    def failure(self, error: Exception) -> Answer:
        return Answer(frames.FAILED, (_failure(self.server.queue, error),))

    # --- the work: an Answer, or what will come to one ----------------------------------------------------

    def work(self, kind: int, content: frames.Buffer) -> Answer | Coroutine[Any, Any, Answer]:
        if kind == frames.PUT:
            return self.put(*frames.read_put(content))
        if kind == frames.GET:
            return self.get(*frames.read_get(content))
        return self.call(*frames.read_call(content))

    def put(self, timeout: float, data: list[memoryview]) -> Answer | Coroutine[Any, Any, Answer]:
        desk = self.server.desk
        items = [desk.item(each) for each in data]
        try:
            desk.queue.put_many(items, block=False)
        except desk.queue.Full as error:
            if timeout == frames.NEVER:
                raise
            return self.put_later(items, getattr(error, "done", 0), timeout)
        return _number(len(items))

    async def put_later(self, items: list[Any], done: int, timeout: float) -> Answer:
        return _number(await self.server.desk.put(items, done, timeout))

    def get(self, timeout: float, most: int) -> Answer | Coroutine[Any, Any, Answer]:
        desk = self.server.desk
        try:
            first = desk.take(min(most, FEW))
        except desk.queue.Empty:
            if timeout == frames.NEVER:
                raise
            return self.get_later(timeout, min(most, frames.MOST_MESSAGES))
        return self.messages(min(most, frames.MOST_MESSAGES), first)

    async def get_later(self, timeout: float, most: int) -> Answer:
        return self.messages(most, await self.server.desk.get(most, timeout))

    def messages(self, most: int, first: list[Any]) -> Answer:
        items, messages, wrong = self.server.desk.answer(most, first)
        if wrong is not None:
            # One cannot travel: it stays out, as what cannot be unpickled does. The others go back.
            self.server.give_back(items)
            raise wrong
        return Answer(frames.MESSAGES, frames.pack_items(messages), items)

    def call(self, what: int, given: float) -> Answer | Coroutine[Any, Any, Answer]:
        waits = {frames.JOIN: desk_join, frames.WAIT_READABLE: desk_readable, frames.WAIT_WRITABLE: desk_writable}
        if what in waits:
            return waits[what](self.server.desk, given)
        return _number(self.server.desk.number(what, given))


async def desk_join(desk: Desk, timeout: float) -> Answer:
    await desk.join(timeout)
    return _number(0)


async def desk_readable(desk: Desk, timeout: float) -> Answer:
    return _number(await desk.readable(timeout))


async def desk_writable(desk: Desk, timeout: float) -> Answer:
    return _number(await desk.writable(timeout))


def _number(number: int) -> Answer:
    return Answer(frames.DONE, (frames.number_content(number),))


def _failure(queue: Any, error: Exception) -> bytes:
    kinds: list[tuple[type[BaseException], int]] = [
        (queue.Full, frames.FULL),
        (queue.Empty, frames.EMPTY),
        (queue.ShutDown, frames.SHUT),
        (CannotTravel, frames.OTHER),
        (TimeoutError, frames.LATE),
        (ValueError, frames.VALUE),
        (MemoryError, frames.MEMORY),
    ]
    why = next((number for kind, number in kinds if isinstance(error, kind)), frames.OTHER)
    text = str(error) if why != frames.OTHER else f"{type(error).__name__}: {error}"
    return frames.failed_content(why, getattr(error, "done", 0), text)
