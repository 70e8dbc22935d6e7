"""A portable core on pipes whose workers' ends are driven by hand, from the thread of the test."""

from __future__ import annotations

import os
import pickle
import selectors
from typing import Any, NamedTuple

from multitask._engine.channels import kinds, pipe
from multitask._engine.channels.pipe import ChildPipe
from multitask._engine.core import Options
from multitask._engine.portable import PortableCore
from multitask._engine.wire import Parcel


class Ref(NamedTuple):
    id: int
    needs: tuple[Any, ...]


class Encoder:
    """Pickles; the functions in ``known`` travel by number, with one definition each."""

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}
        self.dead: list[int] = []

    def function(self, fn: Any) -> Ref | None:
        number = self.known.get(fn)
        return None if number is None else Ref(number, ((number, None, Parcel(pickle.dumps(fn))),))

    def dump(self, obj: Any) -> tuple[Parcel, tuple[Any, ...]]:
        buffers: list[Any] = []
        data = pickle.dumps(obj, protocol=5, buffer_callback=buffers.append)
        return Parcel(data, tuple(buffer.raw() for buffer in buffers)), ()

    def take_dead(self) -> list[int]:
        dead, self.dead = self.dead, []
        return dead

    def load(self, parcel: Parcel) -> Any:
        return pickle.loads(parcel.data, buffers=parcel.buffers)

    def load_error(self, parcel: Parcel) -> BaseException:
        error = pickle.loads(parcel.data)
        assert isinstance(error, BaseException)
        return error


def packed(obj: Any) -> Parcel:
    return Encoder().dump(obj)[0]


class Bench:
    """A core, its hand-driven worker ends, and the means to drive both from one thread."""

    def __init__(self, **options: Any) -> None:
        self.encoder = Encoder()
        self.core = PortableCore(encoder=self.encoder, **options)  # type: ignore[arg-type]
        self.ends: dict[int, ChildPipe] = {}
        self.deaths: dict[int, int] = {}

    def worker(self, wid: int, hello: bool = True, watched: bool = False) -> ChildPipe:
        channel, fds = pipe.make()
        self.core.add_worker(wid, channel)
        end = self.ends[wid] = ChildPipe([os.dup(fd) for fd in fds])
        channel.close_child()
        if watched:
            alive, self.deaths[wid] = os.pipe()
            self.core.watch(alive, wid)
            self.deaths[-1 - wid] = alive
        if hello:
            end.send(kinds.HELLO)
            assert self.core.attend(10) == [("ready", wid)]
        return end

    def die(self, wid: int) -> None:
        """The worker's process ends: its descriptors close, then its death shows."""
        self.ends.pop(wid).close()
        if wid in self.deaths:
            os.close(self.deaths.pop(wid))

    def submit(self, *args: Any, options: Options | None = None, **more: Any) -> Any:
        return self.core.submit(abs, args, None, options, **more)

    def step(self) -> list[Any]:
        return self.core.attend(0)

    def answer(self, wid: int, value: Any, kind: int = kinds.OK) -> None:
        self.ends[wid].send(kind, packed(value))

    def close(self) -> None:
        self.core.dispose()
        for end in self.ends.values():
            end.close()
        for fd in self.deaths.values():
            os.close(fd)


def args_of(message: Any) -> Any:
    """The arguments in a CALL whose function travelled inside."""
    kind, number, _, parcel = message
    assert (kind, number) == (kinds.CALL, 0)
    return pickle.loads(parcel.data)[1]


def has_message(end: ChildPipe) -> bool:
    selector = selectors.DefaultSelector()
    with selector:
        selector.register(end._fd_in, selectors.EVENT_READ)
        return bool(selector.select(0))
