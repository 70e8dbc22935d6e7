"""What the kill tests of the queue share: forked victims, a diary in shared memory, and the accounts."""

from __future__ import annotations

import mmap
import os
import signal
import struct
from collections.abc import Callable

from multitask._native.ring import RingQueue, _kill_at, _shut_down

# Plain, bytes, more than the first ring holds together, pickled, and one that does not go through a ring.
PAYLOADS = ["", b"x" * 3000, 7, b"y" * 40_000, {"of": ["a", 1]}, None, b"z" * 2_200_000, "t" * 900]
PAYLOADS += [b"u" * 9000, 1.5] * 4
ITEM = struct.Struct("<II")


def item(number: int) -> tuple[int, object] | bytes:
    """The message of that number; whether it is whole can be seen."""
    payload = PAYLOADS[number % len(PAYLOADS)]
    return ITEM.pack(number, len(payload)) + payload if isinstance(payload, bytes) else (number, payload)


def number_of(got: object) -> int:
    """The number of a message, which must be whole."""
    number = ITEM.unpack_from(got)[0] if isinstance(got, bytes) else got[0]  # type: ignore[index]
    assert got == item(number), f"message {number} is torn"
    return int(number)


class Diary:
    """Numbers in memory that survives whoever writes them: puts begun and ended, and how often each message came."""

    def __init__(self, messages: int = 200) -> None:
        self.memory = mmap.mmap(-1, 16 + messages)
        self.messages = messages

    def begin(self, number: int) -> None:
        self.memory[0:4] = struct.pack("<I", number + 1)

    def end(self, number: int) -> None:
        self.memory[4:8] = struct.pack("<I", number + 1)

    @property
    def begun(self) -> int:
        return int(struct.unpack("<I", self.memory[0:4])[0])

    @property
    def ended(self) -> int:
        return int(struct.unpack("<I", self.memory[4:8])[0])

    def came(self, number: int) -> None:
        self.memory[16 + number] += 1

    def counts(self) -> list[int]:
        return list(self.memory[16 : 16 + self.messages])

    def close(self) -> None:
        self.memory.close()


def start(run: Callable[[], object], step: int = 0, after: int = 0) -> int:
    """Run it in a forked child that kills itself at *step*; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.alarm(60)  # only a hang lasts as long
        _kill_at(step, after)
        run()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def killed(pid: int) -> bool:
    """Wait for a child: whether SIGKILL ended it. Any other end but a good one fails the test."""
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"ended by signal {os.WTERMSIG(status)}"
        return True
    assert os.WEXITSTATUS(status) == 0, "a child failed; its traceback is above"
    return False


def produce(queue: RingQueue, diary: Diary, count: int, many: bool = False) -> None:
    """Put the messages that the diary does not know as put."""
    number = diary.ended
    while number < count:
        some = min(5, count - number) if many else 1
        diary.begin(number + some - 1)
        if many:
            queue.put_many([item(n) for n in range(number, number + some)])
        else:
            queue.put(item(number))
        number += some
        diary.end(number - 1)


def consume(queue: RingQueue, diary: Diary, many: bool = False) -> None:
    """Get until the queue is shut down and empty."""
    while True:
        try:
            got = queue.get_many(5) if many else [queue.get()]
        except _shut_down():
            return
        for one in got:
            diary.came(number_of(one))


def account(queue: RingQueue, diary: Diary, dead_consumers: int, batch: int = 1) -> int:
    """After the end: nothing came twice; what is missing had been taken by the dead. How many those are."""
    counts = diary.counts()
    assert max(counts) <= 1, "a message came twice"
    assert diary.ended <= queue.put_count <= diary.begun, (diary.ended, queue.put_count, diary.begun)
    assert not any(counts[queue.put_count :]), "a message came that was not put"
    gone = queue.put_count - sum(counts)
    assert queue.got_count == queue.put_count and queue.qsize() == 0
    assert 0 <= gone <= dead_consumers * batch, f"{gone} messages are gone with {dead_consumers} consumers"
    return gone
