"""``multitask doctor``: what works on this machine, what does not, and what to install."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from typing import NamedTuple

from multitask._engine import clock
from multitask.cli import exit_codes
from multitask.cli.output import Output
from multitask.copying.words import size_text

SCREEN = """\
multitask doctor: say what of multitask works on this machine, and what to install

  example: multitask doctor

  --json     one JSON object per line on stdout
  --help     everything

Exit code 1: something that multitask needs does not work.
"""

DETAILS = """\
Each line is a check: "ok", "--" for what is missing and can be done without, or "NO" for what is needed and
does not work, with what to do about it. Two pools are really started, one of processes and one of threads.

exit codes: 0 all that is needed works; 1 it does not
"""

TRIAL_SECONDS = 20.0


class Check(NamedTuple):
    """One line. ``ok`` None: missing, but everything works without it."""

    name: str
    ok: bool | None
    value: str
    fix: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only ``--json``."""
    parser.add_argument("--json", action="store_true", help="one JSON object per line on stdout")


def run(options: argparse.Namespace, out: Output) -> int:
    """Make every check and print it at once."""
    code = exit_codes.DONE
    for check in _checks():
        if check.ok is False:
            code = exit_codes.FAILED
        if out.json:
            out.event("check", **check._asdict())
        else:
            mark = {True: "ok", None: "--", False: "NO"}[check.ok]
            out.data(f"{mark}  {check.name:<14} {check.value}")
            if check.fix:
                out.data(f"    {'fix:':<14} {check.fix}")
        out.flush()
    return code


def _checks() -> Iterator[Check]:
    yield from _versions()
    yield _native()
    yield from _kernel()
    yield _cpus()
    yield _start_methods()
    yield from _limits()
    yield _trial("process")
    yield _trial("thread")


def _versions() -> Iterator[Check]:
    from multitask import __version__

    yield Check("multitask", True, __version__)
    python = f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})"
    new_enough = sys.version_info >= (3, 11)
    yield Check("python", new_enough, python, None if new_enough else "install Python 3.11 or newer")
    yield Check("system", True, f"{platform.system()} {platform.release()} {platform.machine()}")


def _native() -> Check:
    from multitask import _native

    if _native.available:
        return Check("native core", True, "here: pools use lanes of shared memory")
    return Check("native core", None, f"missing: {_native.why_not}; pools use pipes, which are slower", _native_fix())


def _native_fix() -> str:
    """What keeps the native core from being built, first things first."""
    again = "pip install --force-reinstall --no-binary multitask multitask"
    if sys.platform != "linux":
        return "the native core is for Linux; everything else works without it"
    if os.environ.get("MULTITASK_NATIVE", "1") == "0":
        return "unset MULTITASK_NATIVE"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not any(shutil.which(name) for name in (compiler, "cc", "gcc", "clang")):
        return f"install a C compiler ({_install('gcc')}), then {again}"
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        return f"install Python's headers ({_install('python3-dev')}), then {again}"
    return f"the compiler and the headers are here: {again}"


def _install(package: str) -> str:
    """The command of this system's package manager; *package* by its Debian name."""
    other = {"python3-dev": "python3-devel"}
    for tool, command, names in (
        ("apt-get", "apt-get install", {}),
        ("dnf", "dnf install", other),
        ("yum", "yum install", other),
        ("zypper", "zypper install", other),
        ("apk", "apk add", {"gcc": "gcc musl-dev"}),
        ("pacman", "pacman -S", {"python3-dev": "python"}),
    ):
        if shutil.which(tool):
            return f"{command} {names.get(package, package)}"
    return package


def _kernel() -> Iterator[Check]:
    for name, try_it, without in (
        ("memfd", _memfd, "shared memory is not anonymous"),
        ("pidfd", _pidfd, "the death of a worker is noticed through a pipe"),
        ("futex", _futex, "workers wait on pipes"),
    ):
        problem = try_it()
        yield Check(name, None if problem else True, f"{problem}: {without}" if problem else "works")


def _memfd() -> str | None:
    if not hasattr(os, "memfd_create"):
        return "not in this Python"
    return _fails(lambda: os.memfd_create("multitask-doctor", os.MFD_CLOEXEC))


def _pidfd() -> str | None:
    if not hasattr(os, "pidfd_open"):
        return "not in this Python"
    return _fails(lambda: os.pidfd_open(os.getpid()))


def _fails(make: Callable[[], int]) -> str | None:
    try:
        os.close(make())
    except OSError as error:
        return error.strerror or str(error)
    return None


def _futex() -> str | None:
    """Wake nobody on a word of our own: the cheapest call that shows whether the kernel and its filter allow it."""
    import ctypes

    number = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238, "i686": 240}
    if sys.platform != "linux":
        return "a Linux call"
    if platform.machine() not in number:
        return f"not tried on {platform.machine()}"
    word = ctypes.c_uint32(0)
    libc = ctypes.CDLL(None, use_errno=True)
    wake = 1
    if libc.syscall(number[platform.machine()], ctypes.byref(word), wake, 1, None, None, 0) == 0:
        return None
    return os.strerror(ctypes.get_errno())


def _cpus() -> Check:
    from multitask._engine.cpus import cpu_count

    usable, all_of_them = cpu_count(), os.cpu_count() or 1
    note = f" of the machine's {all_of_them} (affinity or control group)" if usable != all_of_them else ""
    return Check("cpus", True, f"{usable}{note}: a pool has that many workers unless told otherwise")


def _start_methods() -> Check:
    import multiprocessing

    return Check("start methods", True, ", ".join(multiprocessing.get_all_start_methods()))


def _limits() -> Iterator[Check]:
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= 256
    fix = None if enough else "ulimit -n 1024"
    yield Check("open files", True if enough else None, f"at most {_limit(soft)} (could be {_limit(hard)})", fix)
    if hasattr(resource, "RLIMIT_NPROC"):
        soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        yield Check("processes", True, f"at most {_limit(soft)}")
    memory = _memory_limit()
    if memory is not None:
        yield Check("memory", True, f"at most {size_text(memory)} (control group)")


def _limit(value: int) -> str:
    import resource

    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"


def _memory_limit() -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                value = int(file.read())
        except (OSError, ValueError):  # not there, or "max"
            continue
        return value if value < 1 << 60 else None
    return None


def _trial(kind: str) -> Check:
    """Start a pool, call a function, end it."""
    name = {"process": "process pool", "thread": "thread pool"}[kind]
    began = clock.monotonic()
    try:
        from multitask.pool import Pool

        with Pool(1, kind=kind) as pool:
            first = pool.submit(os.getpid).result(TRIAL_SECONDS)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return Check(name, False, reason, "report it with the output of `multitask doctor --json`")
    taken = (clock.monotonic() - began) * 1000
    elsewhere = first != os.getpid()
    if elsewhere != (kind == "process"):
        return Check(name, False, f"the call ran in the wrong process ({first})", "report this")
    return Check(name, True, f"start, one call and end in {taken:.0f} ms")
