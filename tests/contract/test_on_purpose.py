"""One test for each row of docs/differences.toml: what multitask does other than the standard library."""

import itertools
import os
import signal
import subprocess
import sys
import threading

import pytest

import multitask
from multitask import Pool

BOTH = pytest.mark.parametrize("kind", ["process", "thread"])
SECONDS = 60  # detects a hang only


def run(program, *words):
    """Run *program* as a script of its own, from stdin."""
    return subprocess.run(
        [sys.executable, "-", *words], input=program, capture_output=True, text=True, timeout=SECONDS, check=False
    )


@BOTH
def test_leaving_with_waits_for_all_the_work(kind):
    with Pool(2, kind=kind) as pool:
        tasks = [pool.submit(pow, n, 2) for n in range(200)]
    assert all(task.done() for task in tasks)
    assert [task.result() for task in tasks] == [n * n for n in range(200)]


def test_leaving_with_on_an_error_stops_the_work():
    with pytest.raises(ZeroDivisionError):
        with Pool(1) as pool:
            endless = pool.submit(signal.pause)
            waiting = pool.submit(pow, 2, 2)
            1 / 0
    assert endless.cancelled() and waiting.cancelled()


def test_an_unclosed_pool_finishes_at_exit(tmp_path):
    done = run(
        "import sys, pathlib\n"
        "from multitask import Pool\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "pool = Pool(2)\n"
        "for n in range(50):\n"
        "    pool.submit(lambda n: (folder / str(n)).touch(), n)\n",
        str(tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.iterdir())) == 50


def test_cancel_stops_a_running_task():
    with Pool(1) as pool:
        task = pool.submit(signal.pause)
        while not task.running():
            assert not task.done()
        assert task.cancel()
        assert pool.apply(pow, (2, 3)) == 8


def test_an_executor_keeps_the_standard_cancel():
    with multitask.Executor(1) as executor:
        task = executor.submit(signal.pause)
        while not task.running():
            assert not task.done()
        assert not task.cancel()
        assert task.kill()


@BOTH
@pytest.mark.parametrize("args", [3, "ab", None])
def test_args_that_is_no_tuple_raises_at_the_call(kind, args):
    with Pool(1, kind=kind) as pool:
        with pytest.raises(TypeError, match=r"args must be a tuple.*apply_async\("):
            pool.apply_async(print, args)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_default_start_method_is_forkserver():
    with Pool(1) as pool:
        assert pool.apply(os.getppid) != os.getpid()
    with Pool(1, start_method="fork") as pool:
        assert pool.apply(os.getppid) == os.getpid()


@pytest.mark.parametrize("method", ["forkserver", "fork", "spawn"])
def test_main_is_not_imported_again(method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from multitask import Pool\n"
        "print('imported')\n"
        "with Pool(2, start_method=sys.argv[1]) as pool:\n"
        "    print(pool.map(lambda n: n + 1, range(4)))\n"
    )
    done = subprocess.run(
        [sys.executable, script, method], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.stdout, done.stderr) == ("imported\n[1, 2, 3, 4]\n", "")


def test_workers_leave_ctrl_c_to_the_parent():
    with Pool(1) as pool:
        assert pool.apply(signal.getsignal, (signal.SIGINT,)) == signal.SIG_IGN
        assert pool.apply(os.getpgid, (0,)) != os.getpgid(0)


def test_a_dead_worker_fails_only_its_own_task():
    with Pool(2) as pool:
        tasks = [pool.submit(os._exit if n == 50 else abs, 3) for n in range(100)]
        errors = [task.exception() for task in tasks]
        assert isinstance(errors.pop(50), multitask.WorkerLost)
        assert errors == [None] * 99


@BOTH
def test_an_unread_failure_is_shown(kind, capfd):
    with Pool(1, kind=kind) as pool:
        pool.submit(int, "no number")
    shown = capfd.readouterr().err
    assert "ValueError: invalid literal" in shown
    assert "test_on_purpose.py" in shown


@BOTH
def test_sys_exit_reaches_the_caller(kind):
    with Pool(1, kind=kind) as pool:
        with pytest.raises(SystemExit) as caught:
            pool.apply(sys.exit, (3,))
        assert caught.value.code == 3
        assert pool.apply(abs, (-1,)) == 1


@BOTH
def test_imap_pulls_no_more_than_its_buffer(kind):
    pulled = itertools.count()
    with Pool(2, kind=kind) as pool:
        stream = pool.imap(abs, pulled, buffer=10)
        got = list(itertools.islice(stream, 30))
        stream.close()
    assert got == list(range(30))
    assert next(pulled) - len(got) <= 10


@BOTH
def test_map_raises_the_error_of_the_first_item(kind):
    with Pool(2, kind=kind) as pool:
        with pytest.raises(ValueError, match="'first'"):
            pool.map(int, ["1", "first", "second"], chunksize=1)


@BOTH
def test_a_raising_callback_harms_nobody(kind, monkeypatch):
    heard = threading.Event()
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(str(report.exc_value)))

    def bad(result):
        raise RuntimeError("a callback fails")

    with Pool(1, kind=kind) as pool:
        pool.apply_async(abs, (-1,), callback=bad)
        pool.apply_async(abs, (-2,), callback=lambda result: heard.set())
        assert heard.wait(SECONDS)
        assert pool.apply(abs, (-3,)) == 3
    assert reported == ["a callback fails"]


def test_terminate_settles_every_task():
    heard = []
    pool = Pool(1)
    tasks = [pool.submit(signal.pause), *(pool.submit(abs, n) for n in range(10))]
    tasks.append(pool.apply_async(abs, (1,), error_callback=heard.append))
    pool.terminate()
    pool.join()
    for task in tasks:
        with pytest.raises(multitask.CancelledError):
            task.get(SECONDS)
    assert [type(error) for error in heard] == [multitask.CancelledError]


@BOTH
def test_terminate_does_not_wait(kind, monkeypatch):
    pool = Pool(1, kind=kind)
    with monkeypatch.context() as patch:
        patch.setattr(pool._engine, "join", lambda: pytest.fail("it waits"))
        pool.terminate()
    pool.join()


@BOTH
@pytest.mark.parametrize("method", [Pool.imap, Pool.imap_unordered])
def test_an_iterator_goes_on_after_a_failed_chunk(kind, method):
    words = ["0", "1", "two", "3", "4", "5"]
    with Pool(1, kind=kind) as pool:
        results, got = method(pool, int, words, chunksize=2), []
        while True:
            try:
                got.append(next(results))
            except ValueError:
                got.append("failed")
            except StopIteration:
                break
    assert got == [0, 1, "failed", 4, 5]


@BOTH
def test_a_dropped_pool_finishes_without_a_warning(kind, recwarn):
    pool = Pool(1, kind=kind)
    tasks = [pool.submit(abs, -n) for n in range(50)]
    del pool
    assert [task.result(SECONDS) for task in tasks] == list(range(50))
    assert [warning.category for warning in recwarn if warning.category is ResourceWarning] == []


@BOTH
def test_map_refuses_a_chunksize_of_zero(kind):
    with Pool(1, kind=kind) as pool:
        with pytest.raises(ValueError, match="chunksize"):
            pool.map(abs, [1, 2], chunksize=0)


def test_a_pool_inside_a_task_works():
    def inner(n):
        from multitask import Pool

        with Pool(1) as pool:
            return pool.apply(abs, (n,))

    with Pool(1) as pool:
        assert pool.apply(inner, (-5,)) == 5


def test_the_default_number_of_workers_is_what_this_process_may_use():
    with Pool(kind="thread") as pool:
        assert pool.processes == multitask.cpu_count()
