"""What runs inside a user's process: take the call, run it, put the answer into the mailbox, end.

The steps around ``run`` are those of ``multiprocessing.process``: names, daemons' and children's end, the traceback
on stderr, threads that are waited for, the exit code.
Rule: the answer is written as soon as ``run`` has returned or raised, before exit handlers or other threads are waited
for; what cannot be written is itself the answer and changes nothing else.
"""

from __future__ import annotations

import atexit
import pickle
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import process as theirs
from multiprocessing import util
from typing import Any, NamedTuple

from multitask._engine import family
from multitask._engine.processes import mailbox
from multitask._engine.wire import Decoder, Parcel


class Inherited(NamedTuple):
    """What a forked process has from its parent without any pickling."""

    snapshot: Any  # of the encoder
    process: Any


def main(spec: dict[str, Any], fds: Sequence[int], inherited: Inherited | None) -> int:
    """Run the process that was started with this; returns its exit code."""
    box, parent = fds
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # From 3.13 on whoever starts a process sees to this: what is in its queues of multiprocessing is written out, and
    # its children are waited for. A second time it does nothing.
    atexit.register(util._exit_function)  # type: ignore[attr-defined]
    family.join(spec["family"])
    decoder = Decoder(spec["space"], None if inherited is None else inherited.snapshot)
    decoder.install()
    if inherited is not None:
        process = inherited.process
    else:
        theirs.current_process().authkey = spec["authkey"]
        try:
            process = _take(decoder, box)
        except BaseException as error:
            mailbox.write(box, mailbox.ERROR, _parts(decoder.dump_error(error)))
            traceback.print_exc()
            return 1
    process.run = _Keeping(process.run, decoder, box)
    return int(process._bootstrap(parent_sentinel=parent) or 0)


def _take(decoder: Decoder, box: int) -> Any:
    _, parts = mailbox.read(box)
    mailbox.clear(box)
    needs, data = pickle.loads(parts[0])
    for need in needs:
        decoder.define(*need)
    return decoder.load(Parcel(data, tuple(parts[1:])))


class _Keeping:
    """In the place of a process's ``run``: keeps what it returns or raises."""

    def __init__(self, run: Callable[[], Any], decoder: Decoder, box: int) -> None:
        self._run, self._decoder, self._box = run, decoder, box

    def __call__(self) -> None:
        try:
            value = self._run()
        except BaseException as error:
            if isinstance(error, SystemExit) and error.code in (None, 0):
                self._write_result(None)
            else:
                self._write(mailbox.ERROR, self._decoder.dump_error(error))
            raise
        self._write_result(value)

    def _write_result(self, value: Any) -> None:
        try:
            self._write(mailbox.RESULT, self._decoder.dump(value))
        except Exception as error:  # it cannot travel, or memory ran out: whoever asks for it hears so
            self._write(mailbox.ERROR, self._decoder.dump_error(error))

    def _write(self, state: int, parcel: Parcel) -> None:
        mailbox.write(self._box, state, _parts(parcel))


def _parts(parcel: Parcel) -> tuple[Any, ...]:
    return parcel.data, *parcel.buffers
