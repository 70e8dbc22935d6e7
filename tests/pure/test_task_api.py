"""Callbacks, the report of unread failures, progress, checks of arguments, names and lines."""

from __future__ import annotations

import functools
import sys
import threading

import pytest

from multitask._engine import callbacks as callbacks_module
from multitask._engine import notes, unread
from multitask._engine.callbacks import Callbacks
from multitask._engine.calls import as_args, as_sequence, chunk_size
from multitask._engine.progress import Progress, open_progress
from multitask._engine.sites import call_name, line_of, site_text


@pytest.fixture
def callbacks():
    callbacks = Callbacks("test")
    yield callbacks
    callbacks.close()
    callbacks.drain()


@pytest.fixture
def unraisable(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    return seen


def test_hooks_run_in_order_on_one_thread_that_starts_with_the_first(callbacks):
    before = threading.active_count()
    seen = []
    assert callbacks.drain()
    assert threading.active_count() == before
    for i in range(100):
        callbacks.put(i, (seen.append, lambda task: seen.append(threading.current_thread().name)))
    assert callbacks.drain(60)
    assert seen[::2] == list(range(100))
    assert set(seen[1::2]) == {"multitask-callbacks-test"}


def test_a_hook_that_raises_is_reported_with_its_task_and_the_next_runs(callbacks, unraisable):
    seen = []

    def fail(task):
        raise SystemExit(task)

    callbacks.put("first", (fail, seen.append))
    callbacks.put("second", (seen.append,))
    assert callbacks.drain(60)
    assert seen == ["first", "second"]
    assert "first" in unraisable[0].err_msg and unraisable[0].exc_type is SystemExit
    assert unraisable[0].object is fail


def test_a_reporting_hook_that_raises_itself_does_not_end_the_thread(callbacks, monkeypatch, capsys):
    def broken(report):
        raise RuntimeError

    monkeypatch.setattr(sys, "unraisablehook", broken)
    callbacks.put("task", (lambda task: 1 // 0,))
    seen = []
    callbacks.put("task", (seen.append,))
    assert callbacks.drain(60)
    assert seen == ["task"]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_without_such_a_hook_the_error_goes_to_stderr(callbacks, monkeypatch, capsys):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    callbacks.put("the task", (lambda task: 1 // 0,))
    assert callbacks.drain(60)
    error = capsys.readouterr().err
    assert "A callback of 'the task' failed" in error and "ZeroDivisionError" in error


def test_draining_on_the_callback_thread_itself_returns_at_once(callbacks):
    seen = []
    callbacks.put(None, (lambda _: seen.append((callbacks_module.inside(), callbacks.drain())),))
    assert callbacks.drain(60)
    assert seen == [(True, True)]
    assert not callbacks_module.inside()


def test_draining_gives_up_after_its_timeout(callbacks):
    unblock = threading.Event()
    callbacks.put(None, (lambda _: unblock.wait(60),))
    assert not callbacks.drain(0.001)
    unblock.set()
    assert callbacks.drain(60)


def test_what_is_put_after_close_still_runs_and_the_thread_ends():
    callbacks = Callbacks("test")
    seen = []
    for i in range(50):
        callbacks.put(i, (seen.append,))
        if i == 20:
            callbacks.close()
    assert callbacks.drain(60)
    assert seen == list(range(50))
    assert threading.active_count() == 1


class Failed:
    name = "work"

    def __init__(self, error=None, asked=False):
        self.error, self._asked = error or ValueError("unread"), asked

    def _outcome(self):
        self._asked = True
        return False, self.error

    def cancelled(self):
        return False

    def _submitted_at(self):
        frame = sys._getframe()
        return frame.f_code, frame.f_lasti


class Core:
    def __init__(self, *failures):
        self.failures = list(failures)


def test_unread_failures_are_shown_once_with_their_line_and_read_ones_are_not(capsys):
    core = Core(Failed(ValueError("one")), Failed(asked=True), Failed(KeyError("two")))
    assert unread.report(core) == 2
    error = capsys.readouterr().err
    assert "ValueError: one" in error and "KeyError: 'two'" in error
    assert error.count("the task work failed and nobody asked for its result; submitted at") == 2
    assert "test_task_api.py:" in error
    assert unread.report(core) == 0
    assert capsys.readouterr().err == ""


def test_after_twenty_blocks_the_rest_is_counted(capsys):
    assert unread.report(Core(*(Failed(ValueError(i)) for i in range(50)))) == 50
    error = capsys.readouterr().err
    assert error.count("ValueError:") == 20
    assert error.endswith("and 30 more failed tasks whose result nobody asked for\n")


def test_an_error_that_cannot_be_printed_is_still_reported(capsys):
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError

    unread.report(Core(Failed(Unprintable())))
    assert "Unprintable" in capsys.readouterr().err


def test_the_list_of_failures_does_not_grow_with_those_that_were_read(callbacks):
    failures = unread.Failures(callbacks)
    kept = Failed()
    failures.append(kept)
    for _ in range(20_000):
        failures.append(read := Failed())
        read._asked = True  # and nobody has said so
        if len(failures) >= 1000:
            assert callbacks.drain(60)
    assert len(failures) < 2000
    assert failures[0] is kept


def test_a_failure_that_was_asked_for_is_held_no_longer(callbacks):
    failures = unread.Failures(callbacks)
    first, second = Failed(), Failed()
    failures.append(first)
    failures.append(second)
    failures.heard(first)
    assert failures == [second]
    failures.heard(first)
    assert failures == [second]


def test_a_failure_that_was_asked_for_before_it_came_in_is_held_no_longer(callbacks):
    failures = unread.Failures(callbacks)
    early, late = Failed(asked=True), Failed()
    failures.heard(early)  # not here yet
    failures.append(early)
    failures.append(late)
    assert callbacks.drain(60)
    assert [task for task in failures if task] == [late]


def test_of_many_failures_any_is_taken_out_and_the_rest_is_reported(callbacks, capsys):
    failures = unread.Failures(callbacks)
    tasks = [Failed(ValueError(number)) for number in range(1000)]
    for task in tasks:
        failures.append(task)
    for task in tasks[999:200:-1] + tasks[:199]:
        failures.heard(task)
    core = Core()
    core.failures = failures
    assert unread.report(core) == 2
    assert "ValueError: 199" in capsys.readouterr().err and not failures


def test_args_become_a_tuple_or_an_error_that_shows_the_call():
    assert as_args(print, [1, 2]) == (1, 2)
    assert as_args(print, {"a": 1}) == ("a",)
    for wrong in (5, None, "text", b"bytes", 1.5, print):
        with pytest.raises(TypeError, match=r"write apply_async\(print, \("):
            as_args(print, wrong)


@pytest.mark.parametrize(
    ("items", "processes", "size"), [(0, 2, 1), (1, 2, 1), (8, 2, 1), (9, 2, 2), (1_000_000, 2, 125_000)]
)
def test_the_default_chunk_size_is_that_of_multiprocessing(items, processes, size):
    assert chunk_size(None, items, processes) == size


def test_exact_builtin_sequences_are_sliced_as_they_are():
    for items in ([1], (1,), range(1), b"1", "1"):
        assert as_sequence(items) is items
    assert as_sequence(iter([1])) == [1]
    assert as_sequence({1: 2}) == [1]


def test_names_of_calls():
    class Callable:
        def __call__(self):
            pass

    assert call_name(len) == "len"
    assert call_name(str.upper) == "str.upper"
    assert call_name(functools.partial(functools.partial(len), 1)) == "len"
    assert call_name(Callable()).endswith("Callable")


def test_a_site_is_the_line_that_was_running():
    frame = sys._getframe()
    site = (frame.f_code, frame.f_lasti)
    assert line_of(site) == frame.f_lineno - 1
    assert site_text(site) == f"test_task_api.py:{frame.f_lineno - 2}"
    assert site_text(None) == "an unknown line"


def test_a_note_is_cut_between_characters(monkeypatch):
    got = []
    monkeypatch.setattr(notes, "sink", got.append)
    notes.note("x" + "é" * 300)
    assert len(got[0]) <= notes.LIMIT
    assert got[0].decode() == "x" + "é" * 99
    notes.note("\ud800")
    assert got[1].decode() == "\\ud800"


def test_progress_writes_plain_lines_where_there_is_no_terminal(capsys):
    progress = open_progress("copying", "f", [1, 2, 3])
    progress.advance(3)
    progress.finish()
    progress.finish()
    assert capsys.readouterr().err.startswith("copying: 3 of 3 (100%) after")
    assert open_progress(None, "f", []) is None
    assert open_progress(True, "name", iter([])).total is None


def test_progress_draws_a_bar_on_a_terminal(monkeypatch):
    import io

    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("adding", 10)
    for _ in range(10):
        progress.advance(1)
    progress.finish()
    assert "adding" in terminal.getvalue() and "10/10" in terminal.getvalue()
