"""The parent's side: os.fork() while a pool lives, many tasks at the end, several threads."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fault_work import Diary, add_one, never_after_record, record
from faults import (
    FORKING,
    HANG_SECONDS,
    VARIANTS,
    alive,
    ended,
    environment,
    kill,
    ready_workers,
    run_script,
    script,
    variant,
    wait_until,
    workers,
)

from multitask import CancelledError

MANY = 10_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_a_pool_in_a_child_of_os_fork_refuses_and_the_parents_goes_on(name: str) -> None:
    done = run_script(
        name,
        """
        import warnings
        pool = make(2)
        waited_for = pool.submit(time.sleep, 0.3)
        with warnings.catch_warnings():
            # Since 3.12 Python warns of a fork beside any thread; the pool has its manager.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            for use in (
                lambda: waited_for.result(5),
                lambda: pool.submit(add_one, 1),
                lambda: pool.map(add_one, [1]),
                lambda: pool.apply_async(add_one, (1,)),
                lambda: next(pool.imap(add_one, [1])),
            ):
                try:
                    use()
                except PoolClosed as error:
                    assert "os.fork" in str(error) and "child" in str(error), error
                else:
                    raise SystemExit("used in the child")
            assert repr(pool) and repr(waited_for) and not waited_for.running()
            pool.terminate()
            pool.join()
            with make(1) as own:
                assert own.submit(add_one, 1).result(30) == 2
            del pool
            print("child well", flush=True)
            sys.exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        assert waited_for.result(30) is None
        assert pool.map(add_one, range(100)) == list(range(1, 101))
        pool.close()
        pool.join()
        print("parent well")
        """,
    )
    assert done.stdout.split("\n")[:2] == ["child well", "parent well"]
    assert done.stderr == "", done.stderr


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_a_child_that_just_ends_disturbs_nobody(name: str) -> None:
    """It ends in every way while the parent's pool is at work."""
    run_script(
        name,
        """
        pool = make(2)
        assert pool.apply_async(add_one, (1,), callback=lambda _: None).get(30) == 2  # a thread that no child has
        tasks = []
        children = []
        for way in ("return", "_exit", "SIGKILL", "gc", "with"):
            tasks += [pool.submit(add_one, number) for number in range(50)]
            child = os.fork()
            if child == 0:
                if way == "_exit":
                    os._exit(0)
                if way == "SIGKILL":
                    die("SIGKILL")
                if way == "gc":
                    del pool, tasks
                    gc.collect()
                if way == "with":
                    try:
                        with pool:
                            pass
                    except PoolClosed:
                        pass
                sys.exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        assert [task.result(30) for task in tasks] == list(range(1, 51)) * 5
        assert pool.map(add_one, range(100)) == list(range(1, 101))
        pool.close()
        pool.join()
        """,
    )


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", VARIANTS)
def test_workers_die_with_the_parent_although_its_forked_child_lives(name: str) -> None:
    code = """
        pool = make(2)
        pids = {task.result(30) for task in [pool.submit(pid) for _ in range(10)]}
        pids |= {hand.worker.pid for hand in pool._engine._supervisor._staff.hands.values()}
        child = os.fork()
        if child == 0:
            never()
        print(child, *pids, flush=True)
        pool.submit(never).result()
    """
    parent = subprocess.Popen(script(name, code), stdout=subprocess.PIPE, env=environment(), process_group=0)
    assert parent.stdout is not None
    child, *pids = map(int, parent.stdout.readline().split())
    try:
        assert len(pids) >= 2 and all(map(alive, pids))
        killed = kill(parent.pid)
        parent.wait(HANG_SECONDS)
        wait_until(lambda: not any(map(alive, pids)), 10.0)
        took = time.monotonic() - killed
        assert alive(child)
    finally:
        kill(child)
        parent.stdout.close()
    print(f"\n{name}: workers gone {took:.3f} s after the parent")
    assert took < 2.0


# --- the end with much to do --------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_close_with_10_000_waiting_tasks_then_join(name: str) -> None:
    with variant(name) as make:
        pool = make(2)
        with ended(pool):
            tasks = [pool.submit(add_one, number) for number in range(MANY)]
            pool.close()
            pool.join()
            assert all(task.done() for task in tasks)
            assert [task.result(0) for task in tasks] == list(range(1, MANY + 1))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_terminate_with_10_000_waiting_tasks(tmp_path: Path, name: str) -> None:
    diary = Diary(str(tmp_path / "diary"))
    with variant(name) as make:
        pool = make(2)
        running = [pool.submit(never_after_record, diary.path, number) for number in range(2)]
        wait_until(lambda: len(diary.lines()) == 2)
        waiting = [pool.submit(record, diary.path, number) for number in range(2, MANY)]
        pids = workers(pool)
        begun = time.monotonic()
        pool.terminate()
        pool.join()
        took = time.monotonic() - begun
        assert all(task.cancelled() for task in [*running, *waiting])
        with pytest.raises(CancelledError):
            waiting[-1].result(0)
        assert not any(map(alive, pids))
    assert len(diary.lines()) == 2
    print(f"\n{name}: terminated in {took:.3f} s")
    assert took < 5.0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_leaving_with_on_an_error_stops_the_work(tmp_path: Path, name: str) -> None:
    diary = Diary(str(tmp_path / "diary"))
    tasks: list[Any] = []
    with variant(name) as make:
        with pytest.raises(KeyError, match="mine"), make(2) as pool:
            tasks += [pool.submit(never_after_record, diary.path, number) for number in range(2)]
            wait_until(lambda: len(diary.lines()) == 2)
            tasks += [pool.submit(record, diary.path, number) for number in range(2, 100)]
            pids = workers(pool)
            raise KeyError("mine")
        assert all(task.cancelled() for task in tasks)
        assert not any(map(alive, pids))
    assert len(diary.lines()) == 2


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_workers_killed_while_a_closed_pool_finishes(name: str) -> None:
    """Nobody may wait for ever: join returns, and each task has a result or is lost."""
    with variant(name) as make:
        pool = make(2)
        with ended(pool):
            tasks = [pool.submit(time.sleep, 0.005) for _ in range(200)]
            ready_workers(pool, 2)
            pool.close()
            for _ in range(5):
                for victim in workers(pool)[:1]:
                    kill(victim)
                wait_until(lambda: len(workers(pool)) == 2 or all(task.done() for task in tasks))
            pool.join()
            assert all(task.done() for task in tasks)
            assert sum(task.exception(0) is not None for task in tasks) <= 5


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_workers_killed_while_they_are_let_go(name: str) -> None:
    with variant(name) as make:
        for _ in range(20):
            pool = make(2)
            pool.submit(add_one, 1).result(30)
            pids = workers(pool)
            pool.close()
            kill(pids[0])
            pool.join()
            assert not any(map(alive, pids))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["native-fork", "pipe-fork"])
def test_a_stopped_worker_does_not_hold_up_terminate(name: str) -> None:
    with variant(name) as make:
        pool = make(2)
        pids = ready_workers(pool, 2)
        os.kill(pids[0], signal.SIGSTOP)
        begun = time.monotonic()
        pool.terminate()
        pool.join()
        took = time.monotonic() - begun
        assert not any(map(alive, pids))
    assert took < 2.0


# --- threads ------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_threads_that_submit_and_wait_at_once(tmp_path: Path, name: str) -> None:
    diary = Diary(str(tmp_path / "diary"))
    problems: list[BaseException] = []
    with variant(name) as make, ended(make(2)) as pool:
        barrier = threading.Barrier(4)

        def work(base: int) -> None:
            try:
                barrier.wait()
                for start in range(base, base + 300, 10):
                    tasks = [pool.submit(record, diary.path, number) for number in range(start, start + 10)]
                    assert [task.result(30) for task in tasks] == list(range(start, start + 10))
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(base,)) for base in range(0, 1200, 300)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems, problems
    assert sorted(int(line[0]) for line in diary.lines()) == list(range(1200))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_pool_made_in_a_thread_that_ends_lives_on(name: str) -> None:
    made: list[Any] = []
    with variant(name) as make:
        thread = threading.Thread(target=lambda: made.append(make(2)))
        thread.start()
        thread.join()
        with ended(made[0]) as pool:
            pids = ready_workers(pool, 2)
            assert pool.map(add_one, range(100)) == list(range(1, 101))
            assert all(map(alive, pids)), "the death signal of the thread must not reach them"
            kill(pids[0])
            assert pool.map(add_one, range(100)) == list(range(1, 101))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FORKING)
def test_a_pool_used_and_left_in_a_thread(name: str) -> None:
    results: list[int] = []

    def work() -> None:
        with make(2) as pool:
            results.extend(pool.map(add_one, range(50)))

    with variant(name) as make:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == sorted(list(range(1, 51)) * 3)
