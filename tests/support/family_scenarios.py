"""What tests/faults/test_family.py plays: each function is a program, run as ``python family_scenarios.py NAME …``.

The process that runs it is the root of its family. It prints nothing when all is well.
"""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time

from multitask import errors
from multitask._engine import family

KEY = b"a thing's key ok"


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def root():
    """The broker of this process."""
    broker = family._broker
    assert broker is not None
    return broker


def until(condition, what: str) -> None:
    """Wait for something that nothing announces; 20 s mean that it never comes."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.005)


def memory(content: bytes) -> int:
    fd = os.memfd_create("family-test")
    os.write(fd, content)
    return fd


def content_of(fd: int) -> bytes:
    return os.pread(fd, 100, 0)


def _lend_and_tell(pipe, key) -> None:
    fd = memory(b"from the lender")
    pipe.send(tuple(family.lend(fd, key)))
    signal.pause()


def _borrow_and_wait(ticket, pipe) -> None:
    fd = family.borrow(family.Ticket(*ticket))
    pipe.send(content_of(fd))
    signal.pause()


def _nothing() -> None:
    pass


def lender_killed(method: str) -> None:
    """What was lent is there after its lender was killed; with and without a key."""
    context = multiprocessing.get_context(method)
    family.lend(memory(b""), b"so that there is a root before the others")
    for key in (None, KEY):
        ours, theirs = context.Pipe()
        process = context.Process(target=_member_lends, args=(tuple(family.address()), theirs, key))
        process.start()
        ticket = family.Ticket(*ours.recv())
        assert ticket.name == family.address().name
        process.kill()
        process.join()
        fd = family.borrow(ticket)
        assert content_of(fd) == b"from the lender"
        os.close(fd)
        ours.close()
        theirs.close()


def _member_lends(address, pipe, key) -> None:
    family.join(family.Address(*address))
    _lend_and_tell(pipe, key)


def last_user_killed(method: str) -> None:
    """An entry goes when its last user is killed, and the root has as many descriptors as before."""
    context = multiprocessing.get_context(method)
    warm = context.Process(target=_nothing)
    warm.start()
    warm.join()
    warm.close()
    family.forgo(family.lend(memory(b"x")))
    before = descriptors()
    for _ in range(3):
        fd = memory(b"used")
        ours, theirs = context.Pipe()
        users = [context.Process(target=_borrow_and_wait, args=(tuple(family.lend(fd, KEY)), theirs)) for _ in range(2)]
        for process in users:
            process.start()
        assert [ours.recv(), ours.recv()] == [b"used", b"used"]
        os.close(fd)
        family.release(KEY)
        assert len(root().entries) == 1
        users[0].kill()
        users[0].join()
        until(lambda: len(root()._lines) == 1, "the broker to see the first end")
        assert len(root().entries) == 1
        users[1].kill()
        users[1].join()
        for process in users:
            process.close()
        ours.close()
        theirs.close()
        until(lambda: len(root().entries) == 0, "the entry to go")
        until(lambda: descriptors() == before, f"{before} descriptors, not {descriptors()}")


def forked_user_killed() -> None:
    """A child that has inherited the thing, and never asked the root for anything, is a user too."""
    fd = memory(b"inherited")
    family.forgo(family.lend(fd, KEY))
    ready, said = os.pipe()
    child = os.fork()
    if not child:
        # A process that ends closes its descriptors in their order: its line first, the thing milliseconds later.
        fcntl.fcntl(fd, fcntl.F_DUPFD, 500)
        os.close(fd)
        for _ in range(100):
            os.write(os.memfd_create("slow to close"), bytes(1 << 20))
        os.write(said, b"x")
        signal.pause()
    os.close(fd)
    os.read(ready, 1)
    until(lambda: len(root()._lines) == 1, "the line that a forked child opens")
    family.release(KEY)
    assert len(root().entries) == 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    until(lambda: len(root().entries) == 0, "the entry to go")


def handle_under_way() -> None:
    """A thing nobody uses stays while a handle to it is under way, and goes with the one that reads it."""
    before_use = memory(b"sent")
    ticket = family.lend(before_use, KEY)
    os.close(before_use)
    family.release(KEY)
    assert len(root().entries) == 1
    fd = family.borrow(ticket)
    assert content_of(fd) == b"sent"
    os.close(fd)
    family.release(KEY)
    assert len(root().entries) == 0
    try:
        family.borrow(ticket)
    except errors.CannotTravel as error:
        assert "given it out already" in str(error)
    else:
        raise AssertionError("what has gone was found")


def root_killed() -> None:
    """Children of a root that was killed: old tickets say who has ended, and lending goes on among themselves."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    first = os.fork()
    if not first:
        ticket = family.lend(memory(b"kept by the root"))
        second = os.fork()
        if not second:
            theirs.recv(1)  # the root is dead
            try:
                family.borrow(ticket)
            except errors.CannotTravel as error:
                theirs.send(str(error).encode())
            fd = family.borrow(family.lend(memory(b"among us")))
            theirs.send(content_of(fd))
            os._exit(0)
        theirs.send(b"%d" % ticket.pid)
        signal.pause()
    pid = int(ours.recv(100))
    assert pid == first
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    ours.send(b"x")
    text = ours.recv(4096).decode()
    assert f"(pid {first}) has ended" in text, text
    assert ours.recv(100) == b"among us"


def wrong_secret() -> None:
    """Who does not know the secret gets nothing, and the root goes on."""
    ticket = family.lend(memory(b"secret"))
    child = os.fork()
    if not child:
        for wrong in (b"\0" * 32, b"short"):
            try:
                family.borrow(ticket._replace(secret=wrong))
            except errors.CannotTravel as error:
                assert "not genuine" in str(error)
            else:
                os._exit(1)
        _say_nonsense(ticket)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert content_of(family.borrow(ticket)) == b"secret"


def _say_nonsense(ticket) -> None:
    for words in (
        [b""],
        [b"B" + bytes(8)],
        [b"H"],
        [b"?" * 256],
        [b"H" + ticket.secret, b"B"],
        [b"H" + ticket.secret, b"L"],
    ):
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line.connect(ticket.name)
        for word in words:
            line.send(word)
        line.recv(100)
        line.close()


def other_user() -> None:
    """A process of another user gets nothing, though it knows the ticket."""
    ticket = family.lend(memory(b"mine"))
    child = os.fork()
    if not child:
        os.setgid(65534)
        os.setuid(65534)
        try:
            family.borrow(ticket)
        except errors.CannotTravel as error:
            assert "another user" in str(error)
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert content_of(family.borrow(ticket)) == b"mine"


def exhausted(who: str) -> None:
    """10,000 lends that nobody reads: a clear error at the lender, and the root lives, with descriptors to spare."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    fd = memory(b"again and again")
    family.forgo(family.lend(fd))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    if who == "root":
        _lend_until_full(fd)
    else:
        child = os.fork()
        if not child:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
            _lend_until_full(fd)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    more = [os.dup(fd) for _ in range(30)]
    for one in more:
        os.close(one)
    pid = os.fork()
    if not pid:
        assert content_of(family.borrow(family.Ticket(*family.address(), 2))) == b"again and again"
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def _lend_until_full(fd: int) -> None:
    for _ in range(10_000):
        try:
            family.lend(fd)
        except OSError as error:
            assert error.errno == errno.EMFILE
            assert "has none left" in str(error) and "ulimit -n" in str(error), error
            return
    raise AssertionError("10,000 descriptors under a limit of 256")


def no_room_for_a_line() -> None:
    """A member that cannot even be accepted hears why; the broker does not spin and serves again afterwards."""
    fd = memory(b"x")
    family.forgo(family.lend(fd))
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        _knock_twice(fd, theirs)
    theirs.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    hoard = []
    try:
        while True:
            hoard.append(os.dup(fd))
    except OSError:
        pass
    ours.send(b"x")
    assert ours.recv(1) == b"x"
    for one in hoard:
        os.close(one)
    ours.send(b"x")
    assert os.waitpid(child, 0)[1] == 0


def _knock_twice(fd: int, pipe: socket.socket) -> None:
    pipe.recv(1)
    try:
        family.lend(fd)
    except OSError as error:
        assert error.errno == errno.EMFILE, error
        assert family.address().pid == os.getppid()
        pipe.send(b"x")
    pipe.recv(1)
    family.lend(fd)
    os._exit(0 if family.address().pid == os.getppid() else 1)


def forks_while_serving() -> None:
    """The root forks all the time while others lend and borrow; no child hangs or has what is not its own."""
    fd = memory(b"shared")
    family.forgo(family.lend(fd, KEY))
    stop = threading.Event()
    child = os.fork()
    if not child:
        until(lambda: os.getppid() != parent or _busy(fd), "never")
    end = time.monotonic() + 3
    rounds = 0
    while time.monotonic() < end:
        pid = os.fork()
        if not pid:
            signal.alarm(20)
            inherited = {os.readlink(f"/proc/self/fd/{name}") for name in _open_numbers()}
            assert sum("family-test" in what for what in inherited) == 1, inherited
            got = family.borrow(family.lend(fd))
            os._exit(0 if content_of(got) == b"shared" else 1)
        got = family.borrow(family.lend(fd))
        os.close(got)
        assert os.waitpid(pid, 0)[1] == 0
        rounds += 1
    stop.set()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert rounds > 20, rounds


parent = os.getpid()


def _busy(fd: int) -> bool:
    for _ in range(50):
        os.close(family.borrow(family.lend(fd, KEY)))
    return False


def _open_numbers() -> list[str]:
    return [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}") or _is_open(name)]


def _is_open(name: str) -> bool:
    try:
        os.fstat(int(name))
    except OSError:
        return False
    return True


def nothing_left() -> None:
    """Nothing in the abstract namespace after the root was killed with things lent, nor in /dev/shm."""
    before = set(os.listdir("/dev/shm"))
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        family.lend(memory(b"x"))
        theirs.send(family.address().name[1:])
        signal.pause()
    name = ours.recv(100).decode()
    assert f"@{name}" in names()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert f"@{name}" not in names()
    assert not [name for name in set(os.listdir("/dev/shm")) - before if "multitask" in name]


def names() -> str:
    """The sockets of this machine that have a name."""
    with open("/proc/net/unix") as listing:
        return listing.read()


def lock_is_of_the_user() -> None:
    """A borrowed description is the borrower's own: the broker's look is not fooled by its own descriptor."""
    fd = memory(b"x")
    got = family.borrow(family.lend(fd, KEY))
    os.close(fd)
    family.release(KEY)
    assert len(root().entries) == 1
    probe = os.open(f"/proc/self/fd/{got}", os.O_RDWR)
    try:
        fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        raise AssertionError("a user without a lock")
    os.close(probe)
    os.close(got)
    family.release(KEY)
    assert len(root().entries) == 0


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
