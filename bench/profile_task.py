"""What one small call costs in system calls, switches and CPU time, beside the least that it could cost.

    python bench/profile_task.py                         multitask and multiprocessing.Pool
    python bench/profile_task.py --contenders mp,pebble  others

Two looks: undisturbed (the kernel's own counts of switches and CPU time) and under strace (every system call of
every process; that slows them down: messages are counted as they are, but threads that share a GIL queue for
it longer and so call futex more often than they do undisturbed).
"""

from __future__ import annotations

import argparse
import json
import marshal
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import timeit
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import measure
import processes
import work
from contenders import CONTENDERS, OURS, title_of

WORKERS = 2
WARM_UP = 2_000
LIMIT_SECONDS = 300.0
# The calls with which threads and processes hand work over; everything else is counted as "other".
HAND_OVER = {
    "message": ("read", "write", "readv", "writev", "sendmsg", "recvmsg", "pread64", "pwrite64"),
    "sleep or wake": ("futex", "futex_waitv", "poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait"),
}


def inside(name: str, calls: int) -> None:
    """The measured process: submit *calls*, collect them, print what that used as JSON."""
    pool = CONTENDERS[name](WORKERS)
    submit, result = pool.submit, pool.result
    assert submit is not None and result is not None

    def batch(n: int) -> None:
        for handle in [submit(work.f, i) for i in range(n)]:
            result(handle)

    batch(WARM_UP)
    token, nobody = os.environ[processes.TOKEN], 0
    switches, cpu, begin = processes.switches(token, nobody), processes.cpu_seconds(token), perf_counter()
    batch(calls)
    seconds = perf_counter() - begin
    used = processes.cpu_seconds(token)
    after = processes.switches(token, nobody)
    me = os.getpid()
    parent = used[me] - cpu[me]
    everyone = sum(used.values()) - sum(cpu.get(pid, 0.0) for pid in used)
    each = 1e6 / max(1, calls)
    print(
        json.dumps(
            {
                "wall": seconds * each,
                "parent": parent * each,
                "workers": (everyone - parent) * each,
                "switches": (sum(after.values()) - sum(switches.get(t, 0) for t in after)) / max(1, calls),
                "threads": threading.active_count(),
            }
        ),
        flush=True,
    )
    pool.close()


def _run(prefix: list[str], name: str, calls: int) -> str:
    token = uuid.uuid4().hex
    command = [*prefix, sys.executable, __file__, "--inside", name, "--calls", str(calls)]
    try:
        done = subprocess.run(
            command, env=measure.environment(token), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=LIMIT_SECONDS,
        )  # fmt: skip
    finally:
        processes.end_marked(token)
    if done.returncode:
        raise RuntimeError(f"{name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return done.stdout


def undisturbed(name: str, calls: int) -> dict[str, float]:
    """Microseconds and switches per call."""
    answer: dict[str, float] = json.loads(_run([], name, calls).splitlines()[-1])
    return answer


def _traced(name: str, calls: int) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder, "summary")
        _run(["strace", "-f", "-c", "-U", "calls,name", "-o", str(summary)], name, calls)
        found = re.findall(r"^\s*(\d+)\s+(\w+)\s*$", summary.read_text(), re.MULTILINE)
    return Counter({syscall: int(count) for count, syscall in found if syscall != "total"})


def system_calls(name: str, calls: int) -> dict[str, float]:
    """System calls per call: what a run with *calls* makes beyond one with none."""
    more, none = _traced(name, calls), _traced(name, 0)
    return {syscall: (more[syscall] - none[syscall]) / calls for syscall in more}


def floor() -> list[tuple[str, float]]:
    """The pieces that some call or other cannot do without, in microseconds, each alone in one process."""
    reader, writer = os.pipe()
    small, message = (1,), b"x" * 64

    def through_pipe() -> None:
        os.write(writer, message)
        os.read(reader, 64)

    pieces = (
        ("the call itself, `f(x)`", lambda: work.f(1)),
        ("marshal there and back of `(x,)`", lambda: marshal.loads(marshal.dumps(small))),
        ("pickle there and back of `(x,)`", lambda: pickle.loads(pickle.dumps(small))),
        ("pickle there and back of `(f, (x,))`", lambda: pickle.loads(pickle.dumps((work.f, small)))),
        ("64 bytes into a pipe and out, nobody woken", through_pipe),
        ("a lock taken and given back", _lock_once(threading.Lock())),
    )
    timed = [(title, min(timeit.repeat(piece, number=20_000, repeat=5)) / 20_000 * 1e6) for title, piece in pieces]
    os.close(reader)
    os.close(writer)
    return timed


def _lock_once(lock: threading.Lock) -> Callable[[], None]:
    def once() -> None:
        with lock:
            pass

    return once


def _print_costs(name: str, calls: int) -> None:
    used = undisturbed(name, calls)
    print(f"{title_of(name)}: {used['wall']:.2f} µs a call on the clock; CPU {used['parent']:.2f} µs here, "
          f"{used['workers']:.2f} µs in the other processes; {used['switches']:.3f} context switches")  # fmt: skip
    if shutil.which("strace") is None:
        print("  (no strace: install it to count system calls)")
        return
    counts = system_calls(name, calls)
    kind = {syscall: title for title, names in HAND_OVER.items() for syscall in names}
    sums = dict.fromkeys([*HAND_OVER, "other"], 0.0)
    for syscall, each in counts.items():
        sums[kind.get(syscall, "other")] += each
    print("  system calls a call: " + ", ".join(f"{title} {count:.3f}" for title, count in sums.items()))
    often = sorted(((each, syscall) for syscall, each in counts.items() if each >= 0.001), reverse=True)
    print("  " + ", ".join(f"{syscall} {each:.3f}" for each, syscall in often[:10]))


def main() -> int:
    """Print the pieces of the floor, then each contender's costs."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contenders", default=f"{OURS},mp", help=",".join(CONTENDERS))
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside(given.inside, given.calls)
        return 0
    for title, micros in floor():
        print(f"{micros:8.3f} µs  {title}")
    failed = 0
    for name in given.contenders.split(","):
        try:
            _print_costs(name, given.calls)
        except RuntimeError as error:
            failed = 1
            print(error)
    return failed


if __name__ == "__main__":
    sys.exit(main())
