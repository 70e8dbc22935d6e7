"""The wire without an engine: an Encoder here, a Decoder in a child, and a pipe between them.

Used by the tests of the wire only; ``Lane(fork=True)`` forks, otherwise the child is a fresh interpreter.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any, BinaryIO

from multitask._engine.wire import Decoder, Encoder, Known, Parcel


def _send(pipe: BinaryIO, message: object) -> None:
    pickle.dump(message, pipe)
    pipe.flush()


def _flat(parcel: Parcel) -> tuple[bytes, list[bytes]]:
    return parcel.data, [bytes(buffer) for buffer in parcel.buffers]


def _parcel(flat: tuple[bytes, list[bytes]]) -> Parcel:
    return Parcel(flat[0], tuple(flat[1]))


def serve(inlet: BinaryIO, outlet: BinaryIO, inherited: Encoder | None = None) -> None:
    """The worker's loop."""
    space, path = pickle.load(inlet)
    sys.path[:] = path
    decoder = Decoder(space, None if inherited is None else inherited.definitions.snapshot)
    decoder.install()
    while True:
        try:
            kind, *rest = pickle.load(inlet)
        except EOFError:
            return
        if kind == "define":
            number, name, flat = rest
            decoder.define(number, name, _parcel(flat))
        elif kind == "forget":
            decoder.forget(rest[0])
        else:
            _send(outlet, _answer(decoder, *rest))


def _answer(decoder: Decoder, number: int, flat: tuple[bytes, list[bytes]]) -> tuple[bool, Any]:
    try:
        payload: Any = None
        if number:
            fn = decoder.function(number)
            payload = decoder.load(_parcel(flat))
        else:
            payload = decoder.load(_parcel(flat))
            fn, payload = payload[0], payload[1:]
        args, kwargs = payload
        return True, _flat(decoder.dump(fn(*args, **kwargs)))
    except BaseException as error:
        return False, _flat(decoder.dump_error(error))


def child_main() -> None:
    outlet = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, outlet)


class Lane:
    """One worker and what it knows; ``lane(fn, *args)`` calls there. Several lanes may share an encoder."""

    def __init__(self, encoder: Encoder | None = None, *, fork: bool = False) -> None:
        self.encoder = encoder or Encoder(dict(sys.modules["__main__"].__dict__) if fork else None)
        self.known = Known()
        self.sent: list[str | None] = []
        self.pid = None
        if fork:
            self._fork()
        else:
            command = [
                sys.executable,
                "-c",
                "import sys; sys.path[:] = " + repr(sys.path) + "; import wire_lane as w; w.child_main()",
            ]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self.process.stdin and self.process.stdout
            self.outlet, self.inlet = self.process.stdin, self.process.stdout
        _send(self.outlet, (self.encoder.space, sys.path))

    def _fork(self) -> None:
        down_read, down_write = os.pipe()
        up_read, up_write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(down_write)
            os.close(up_read)
            try:
                serve(os.fdopen(down_read, "rb"), os.fdopen(up_write, "wb"), self.encoder)
            finally:
                os._exit(0)
        os.close(down_read)
        os.close(up_write)
        self.outlet, self.inlet = os.fdopen(down_write, "wb"), os.fdopen(up_read, "rb")

    def encode(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, Any, Parcel]:
        """What Core.submit does: (definition number or 0, needs, payload)."""
        ref = self.encoder.function(fn)
        if ref is not None:
            parcel, needs = self.encoder.dump((args, kwargs))
            return ref.id, (ref.needs, needs), parcel
        parcel, needs = self.encoder.dump((fn, args, kwargs))
        return 0, (needs,), parcel

    def send(self, number: int, needs: Any, parcel: Parcel) -> None:
        for group in needs:
            for need in self.known.missing(group):
                self.sent.append(need[1])
                _send(self.outlet, ("define", need[0], need[1], _flat(need[2])))
        _send(self.outlet, ("call", number, _flat(parcel)))

    def result(self) -> Any:
        ok, flat = pickle.load(self.inlet)
        if ok:
            return self.encoder.load(_parcel(flat))
        raise self.encoder.load_error(_parcel(flat))

    def __call__(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.send(*self.encode(fn, args, kwargs))
        return self.result()

    def forget_dead(self) -> list[int]:
        dead = self.encoder.take_dead()
        ours = self.known.forget(dead)
        self.forget(dead)
        return ours

    def forget(self, dead: list[int]) -> None:
        _send(self.outlet, ("forget", dead))

    def close(self) -> None:
        self.outlet.close()
        self.inlet.close()
        if self.pid:
            os.waitpid(self.pid, 0)
        else:
            self.process.wait(30)

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
