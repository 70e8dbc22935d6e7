"""A machine that runs out of things while a pool works: descriptors, memory, space for shared memory."""

from __future__ import annotations

import pytest
from faults import FORKING, run_script

CHANNELS = ["native-fork", "pipe-fork", "native-forkserver", "pipe-forkserver"]


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", CHANNELS)
def test_no_descriptors_left_for_large_contents(name: str) -> None:
    """Small calls go on; a large one succeeds or fails with an error; with descriptors again all is as before."""
    done = run_script(
        name,
        """
        large = bytes(10_000_000)
        with make(2) as pool:
            assert pool.map(add_one, range(10)) == list(range(1, 11))
            lower(resource.RLIMIT_NOFILE, first_free())
            for _ in range(3):
                for task in (pool.submit(length, large), pool.submit(content, 10_000_000)):
                    error = task.exception(30)
                    print(type(error).__name__)
                    assert error is None or isinstance(error, (OSError, WorkerLost)), repr(error)
                assert pool.submit(add_one, 1).result(30) == 2
            lower(resource.RLIMIT_NOFILE, None)
            assert pool.submit(length, large).result(30) == 10_000_000
            assert pool.submit(content, 10_000_000).result(30) == large
        """,
    )
    assert done.stderr == "", done.stderr
    print(f"\n{name}: {' '.join(done.stdout.split())}")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", CHANNELS)
def test_no_descriptors_left_for_a_new_worker(name: str) -> None:
    """The task waits until there are some again, or the pool says that it is broken; it never hangs."""
    done = run_script(
        name,
        """
        with make(1) as pool:
            assert pool.submit(add_one, 1).result(30) == 2
            lower(resource.RLIMIT_NOFILE, first_free() + 1)
            assert isinstance(pool.submit(die, "SIGKILL").exception(30), WorkerLost)
            task = pool.submit(add_one, 2)
            threading.Timer(1.0, lower, (resource.RLIMIT_NOFILE, None)).start()
            error = task.exception(30)
            assert error is None or isinstance(error, PoolBroken), repr(error)
            print(type(error).__name__)
            if error is None:
                assert pool.map(add_one, range(10)) == list(range(1, 11))
        """,
    )
    print(f"\n{name}: {' '.join(done.stdout.split())}")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", CHANNELS)
def test_no_descriptors_for_a_worker_for_ever(name: str) -> None:
    done = run_script(
        name,
        """
        pool = make(1)
        assert pool.submit(add_one, 1).result(30) == 2
        lower(resource.RLIMIT_NOFILE, 3)
        assert isinstance(pool.submit(die, "SIGKILL").exception(30), WorkerLost)
        begun = time.monotonic()
        error = pool.submit(add_one, 2).exception(30)
        assert isinstance(error, PoolBroken), repr(error)
        print(f"{time.monotonic() - begun:.1f} s:", str(error).splitlines()[1])
        pool.close()
        pool.join()
        """,
    )
    print(f"\n{name}: {done.stdout.strip()}")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", CHANNELS)
def test_no_descriptors_for_a_new_pool(name: str) -> None:
    """The constructor raises, leaves nothing behind, and the next one works."""
    run_script(
        name,
        """
        with make(1) as pool:
            assert pool.submit(add_one, 1).result(30) == 2
        before = sorted(os.listdir("/proc/self/fd"))
        for more in range(0, 12):
            lower(resource.RLIMIT_NOFILE, first_free() + more)
            try:
                pool = make(2)
            except (OSError, PoolBroken) as error:
                pass
            else:
                lower(resource.RLIMIT_NOFILE, None)
                pool.terminate()
                pool.join()
                pool = None
            lower(resource.RLIMIT_NOFILE, None)
            gc.collect()
        deadline = time.monotonic() + 3
        while sorted(os.listdir("/proc/self/fd")) != before and time.monotonic() < deadline:
            time.sleep(0.01)
        after = sorted(os.listdir("/proc/self/fd"))
        if after != before:
            os.system(f"ls -l /proc/{os.getpid()}/fd")
        assert after == before
        with make(1) as pool:
            assert pool.submit(add_one, 1).result(30) == 2
        """,
    )


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", ["native-fork", "native-forkserver"])
@pytest.mark.parametrize("where", ["argument", "result"])
def test_no_space_for_a_large_content(name: str, where: str) -> None:
    """A limit on the size of files stands for a full memory file system: writing a segment fails half way."""
    run_script(
        name,
        """
        def lowered(value):
            lower(resource.RLIMIT_FSIZE, value)

        with make(1) as pool:
            assert pool.submit(add_one, 1).result(30) == 2
            if sys.argv[1] == "argument":
                lowered(5_000_000)
                task = pool.submit(length, bytes(10_000_000))
            else:
                pool.submit(lowered, 5_000_000).result(30)
                task = pool.submit(content, 10_000_000)
            error = task.exception(30)
            assert isinstance(error, (OSError, MemoryError)), repr(error)
            assert pool.submit(length, bytes(1_000_000)).result(30) == 1_000_000
            assert pool.submit(content, 1_000_000).result(30) == bytes(1_000_000)
            lowered(None)
            pool.submit(lowered, None).result(30)
            assert pool.submit(length, bytes(10_000_000)).result(30) == 10_000_000
            assert pool.submit(content, 10_000_000).result(30) == bytes(10_000_000)
        """,
        where,
    )


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("where", ["argument", "result", "in the worker"])
def test_no_address_space_for_a_large_content(name: str, where: str) -> None:
    """As under `ulimit -v`: the task fails, the pool goes on."""
    done = run_script(
        name,
        """
        def lowered(more):
            lower(resource.RLIMIT_AS, None if more is None else address_space() + more)

        with make(1) as pool:
            assert pool.submit(add_one, 1).result(30) == 2
            large = bytearray(b"x") * 100_000_000
            if sys.argv[1] == "argument":
                lowered(50_000_000)
                task = pool.submit(length, large)
            elif sys.argv[1] == "result":
                lowered(50_000_000)
                task = pool.submit(content, 100_000_000)
            else:
                pool.submit(lowered, 50_000_000).result(30)
                task = pool.submit(length, large)
            error = task.exception(30)
            print(type(error).__name__)
            if isinstance(error, CannotTravel):
                assert isinstance(error.__cause__, MemoryError), repr(error.__cause__)
            else:
                assert error is None or isinstance(error, (OSError, MemoryError, WorkerLost)), repr(error)
            assert pool.submit(add_one, 1).result(30) == 2
            lowered(None)
            pool.submit(lowered, None).result(30)
            assert pool.submit(length, large).result(30) == 100_000_000
        """,
        where,
        seconds=80,
    )
    print(f"\n{name}, {where}: {done.stdout.strip()}")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", FORKING)
def test_a_worker_that_runs_out_of_descriptors(name: str) -> None:
    run_script(
        name,
        """
        def no_more():
            lower(resource.RLIMIT_NOFILE, 3)

        with make(1) as pool:
            pool.submit(no_more).result(30)
            for task in (pool.submit(length, bytes(10_000_000)), pool.submit(content, 10_000_000)):
                error = task.exception(30)
                assert error is None or isinstance(error, (OSError, WorkerLost)), repr(error)
            assert pool.submit(add_one, 1).result(30) == 2
        """,
    )
