"""Workers that end in every way by themselves, that never get ready, that retire, and tasks that are tried again."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest
from fault_work import (
    Diary,
    add_one,
    die,
    eat,
    fail_until,
    fork_and_raise,
    fork_inside,
    keep,
    keep_shared,
    nap_and_record,
    nested,
    never_after_record,
    never_first_time,
    pid,
    read_stdin,
    record,
    sys_exit,
)
from faults import FORKING, VARIANTS, alive, ended, kill, ready_workers, variant, wait_until, workers

from multitask import PoolBroken, PoolClosed
from multitask._engine.workers import server
from multitask.errors import TaskTimeout, WorkerLost

MEGABYTE = 1_000_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
@pytest.mark.parametrize(
    ("way", "code"),
    [
        ("_exit", 7),
        ("_exit 0", 0),
        ("segfault", -signal.SIGSEGV),
        ("abort", -signal.SIGABRT),
        ("SIGTERM", -signal.SIGTERM),
        ("SIGKILL", -signal.SIGKILL),
    ],
)
def test_a_worker_that_ends_in_a_task(name: str, way: str, code: int) -> None:
    with variant(name) as make, ended(make(2)) as pool:
        tasks = [pool.submit(add_one, number) for number in range(20)]
        error = pool.submit(die, way).exception(30)
        assert isinstance(error, WorkerLost) and error.exitcode == code, error
        assert error.pid is not None and not alive(error.pid)
        assert [task.result(30) for task in tasks] == list(range(1, 21))
        assert pool.map(add_one, range(5)) == [1, 2, 3, 4, 5]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", VARIANTS)
def test_sys_exit_in_a_task_is_its_error_and_the_worker_lives(name: str) -> None:
    with variant(name) as make, ended(make(1)) as pool:
        before = pool.submit(pid).result(30)
        error = pool.submit(sys_exit, 3).exception(30)
        assert isinstance(error, SystemExit) and error.code == 3
        assert pool.submit(pid).result(30) == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("way", ["SIGKILL", "_exit"])
def test_workers_that_die_in_their_initializer_break_the_pool(tmp_path: Path, name: str, way: str) -> None:
    diary = Diary(str(tmp_path / "diary"))

    def initializer() -> None:
        diary.write("started")
        die(way)

    with variant(name) as make:
        pool = make(2, initializer=initializer)
        with ended(pool):
            tasks = []
            try:
                for _ in range(100):
                    tasks.append(pool.submit(add_one, 1))
            except PoolClosed:
                pass  # broken already
            errors = [task.exception(30) for task in tasks]
            assert all(isinstance(error, PoolBroken) for error in errors), errors
            pool.close()
            pool.join()
    assert 3 <= len(diary.lines()) <= 5, "three tries, and what had been started beside them"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", VARIANTS)
def test_an_initializer_that_raises_breaks_the_pool_and_is_shown(name: str) -> None:
    def initializer(what: str) -> None:
        raise ValueError(what)

    with variant(name) as make, ended(make(2, initializer=initializer, initargs=("no licence",))) as pool:
        try:
            error = pool.submit(add_one, 1).exception(30)
        except PoolClosed:
            return
        assert isinstance(error, PoolBroken) and "no licence" in str(error)
        assert isinstance(error.__cause__, ValueError)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_an_initializer_that_fails_twice_and_then_works(tmp_path: Path, name: str) -> None:
    diary = Diary(str(tmp_path / "diary"))

    def initializer() -> None:
        diary.write("started")
        if len(diary.lines()) <= 2:
            die("SIGKILL")

    with variant(name) as make, ended(make(1, initializer=initializer)) as pool:
        assert pool.submit(add_one, 1).result(30) == 2
    assert len(diary.lines()) == 3


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_replacements_that_cannot_start_do_not_harm_the_worker_that_works(tmp_path: Path, name: str) -> None:
    diary = Diary(str(tmp_path / "diary"))

    def initializer() -> None:
        diary.write("started")
        if len(diary.lines()) > 2:
            die("SIGKILL")

    with variant(name) as make, ended(make(2, initializer=initializer)) as pool:
        first, second = ready_workers(pool, 2)
        kill(first)
        wait_until(lambda: len(diary.lines()) >= 2 + 4)
        assert pool.submit(pid).result(30) == second
        assert pool.map(add_one, range(100)) == list(range(1, 101))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["native-forkserver", "pipe-forkserver"])
def test_the_fork_server_killed(name: str) -> None:
    """The workers live on or not, as it comes; the pool goes on, and so does a new one."""
    with variant(name) as make, ended(make(2)) as pool:
        assert pool.map(add_one, range(10)) == list(range(1, 11))
        old = server.server_pid()
        assert old is not None
        kill(old)
        for victim in workers(pool):
            kill(victim)
        assert pool.map(add_one, range(100)) == list(range(1, 101))
        assert server.server_pid() not in (None, old)
        with make(1) as another:
            assert another.submit(add_one, 1).result(30) == 2


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["native-forkserver", "pipe-forkserver"])
def test_the_fork_server_killed_while_tasks_run(name: str) -> None:
    with variant(name) as make, ended(make(2)) as pool:
        tasks = [pool.submit(time.sleep, 0.01) for _ in range(40)]
        tasks[0].exception(30)
        old = server.server_pid()
        assert old is not None
        kill(old)
        errors = [task.exception(30) for task in tasks]
        assert sum(isinstance(error, WorkerLost) for error in errors) <= 2, errors
        assert all(error is None or isinstance(error, WorkerLost) for error in errors), errors
        assert pool.submit(add_one, 1).result(30) == 2


# --- retiring -----------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", VARIANTS)
def test_maxtasksperchild(tmp_path: Path, name: str) -> None:
    count = 20 if "spawn" in name else 60
    with variant(name) as make, ended(make(2, maxtasksperchild=10)) as pool:
        pids = [task.result(30) for task in [pool.submit(pid) for _ in range(count)]]
        pool.close()
        pool.join()
    per_worker = {each: pids.count(each) for each in pids}
    assert max(per_worker.values()) <= 10 and len(per_worker) >= count // 10


def limit_beside_what_is_inherited(name: str) -> int:
    """Room for two of the following tasks and not for three: a forked worker counts what it has of its parent."""
    if "forkserver" in name or "spawn" in name:
        return 400 * MEGABYTE
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return 350 * MEGABYTE + pages * resource.getpagesize()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_worker_beyond_max_memory_retires_after_its_task(name: str) -> None:
    with variant(name) as make, ended(make(1, max_memory=limit_beside_what_is_inherited(name))) as pool:
        pids = [pool.submit(keep_shared, 150 * MEGABYTE).result(30) for _ in range(6)]
        assert pool.submit(add_one, 1).result(30) == 2
    assert len(set(pids)) == 3 and pids[0] == pids[1], "two tasks each: a third could go beyond"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_a_worker_that_leaks_retires_before_a_later_task_pays(name: str) -> None:
    with variant(name) as make, ended(make(1, max_memory=limit_beside_what_is_inherited(name))) as pool:
        pids = [pool.submit(keep, 100 * MEGABYTE).result(30) for _ in range(8)]
    assert 2 <= len(set(pids)) < 8, pids


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_task_beyond_max_memory_gets_memory_error(name: str) -> None:
    with variant(name) as make, ended(make(1, max_memory=400 * MEGABYTE)) as pool:
        assert isinstance(pool.submit(eat, 2000 * MEGABYTE).exception(30), MemoryError)
        assert pool.submit(eat, 10 * MEGABYTE).result(30) == 10 * MEGABYTE


# --- trying again -------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_retries_rest_longer_each_time(tmp_path: Path, name: str) -> None:
    diary = Diary(str(tmp_path / "diary"))
    with variant(name) as make, ended(make(1)) as pool:
        task = pool.options(retries=3, backoff=0.1).submit(fail_until, diary.path, 0, 3)
        assert pool.submit(add_one, 1).result(30) == 2, "meanwhile others run"
        assert task.result(30) == 0
    starts = [float(line[2]) for line in diary.lines()]
    rests = [after - before for before, after in zip(starts[:-1], starts[1:], strict=True)]
    assert len(rests) == 3
    assert all(rest >= at_least - 0.01 for rest, at_least in zip(rests, (0.1, 0.2, 0.4), strict=True)), rests


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_close_and_join_wait_for_the_tries_to_come(tmp_path: Path, name: str) -> None:
    diary = Diary(str(tmp_path / "diary"))
    with variant(name) as make:
        with make(1) as pool:
            task = pool.options(retries=2, backoff=0.1).submit(fail_until, diary.path, 0, 2)
        assert task.result(0) == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_retries_of_lost_and_late_tasks_with_backoff(tmp_path: Path, name: str) -> None:
    with variant(name) as make, ended(make(2)) as pool:
        patient = pool.options(retries=2, backoff=0.05, timeout=0.5)
        lost = patient.submit(die, "SIGKILL")
        late = patient.submit(never_after_record, str(tmp_path / "late"), 1)
        once = patient.submit(never_first_time, str(tmp_path / "once"), 2)
        assert isinstance(lost.exception(30), WorkerLost)
        assert isinstance(late.exception(30), TaskTimeout)
        assert once.result(30) == 2
        assert pool.submit(add_one, 1).result(30) == 2
    assert len(Diary(str(tmp_path / "late")).lines()) == 3
    assert len(Diary(str(tmp_path / "once")).lines()) == 2


# --- what tasks do ------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_task_that_reads_stdin_finds_it_empty(name: str) -> None:
    with variant(name) as make, ended(make(1)) as pool:
        assert pool.submit(read_stdin).result(30) == ""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_a_fork_inside_a_task(name: str) -> None:
    """The child comes back out of the task, as a return and as an error: the pool hears one answer, its worker's."""
    with variant(name) as make, ended(make(1)) as pool:
        worker = pool.submit(pid).result(30)
        assert pool.submit(fork_inside).result(30) == worker
        code = pool.submit(fork_and_raise).result(30)
        assert isinstance(code, int)
        assert pool.map(add_one, range(100)) == list(range(1, 101))
        assert pool.submit(pid).result(30) == worker


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", FORKING)
def test_pools_in_tasks(name: str) -> None:
    method = name.partition("-")[2]
    with variant(name) as make, ended(make(2)) as pool:
        assert pool.submit(nested, method, 2).result(60) == 4


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_pools_in_tasks_die_with_a_cancelled_task(tmp_path: Path, name: str) -> None:
    method, path = name.partition("-")[2], str(tmp_path / "diary")

    def outer() -> None:
        from multitask import Pool

        with Pool(2, start_method=method) as inner:
            inner.starmap(never_after_record, [(path, 1), (path, 2)], chunksize=1)

    with variant(name) as make, ended(make(1)) as pool:
        task = pool.submit(outer)
        wait_until(lambda: len(Diary(path).lines()) == 2)
        assert task.cancel()
        gone = wait_until(lambda: not any(alive(int(line[1])) for line in Diary(path).lines()), 5.0)
        assert pool.submit(add_one, 1).result(30) == 2
    print(f"\n{name}: inner workers gone {gone:.3f} s later")
    assert gone < 2.0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", VARIANTS)
def test_what_a_slow_task_holds_up_moves_to_an_idle_worker(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / "diary")
    with variant(name) as make, ended(make(2)) as pool:
        ready_workers(pool, 2)
        blocker = pool.submit(never_after_record, path, 0)
        tasks = [pool.submit(record, path, number) for number in range(1, 50)]
        slow = pool.submit(nap_and_record, path, 50, 0.01)
        assert [task.result(30) for task in tasks] == list(range(1, 50))
        assert slow.result(30) == 50
        assert blocker.running()
    assert os.path.exists(path)
