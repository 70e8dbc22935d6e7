"""Thread: the standard library's, whose results and errors are kept, and that can be asked to stop."""

from __future__ import annotations

import gc
import os
import signal
import threading
import traceback
import weakref
from collections.abc import Iterator

import pytest

import multitask
from multitask import CancelledError, CancelToken, Thread, current_thread, current_token

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What threading.excepthook was called with."""
    errors: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: errors.append(args.exc_value))
    return errors


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def started(*args: object, **kwargs: object) -> Thread:
    thread = Thread(*args, **kwargs)  # type: ignore[arg-type]
    thread.start()
    return thread


def fail() -> None:
    raise ValueError("nobody expects it")


def test_the_result_is_what_the_target_returned() -> None:
    assert started(target=divmod, args=(17, 5)).result() == (3, 2)
    assert started(target=int, args=["ff"], kwargs={"base": 16}).result(timeout=10) == 255


def test_the_result_of_a_subclass_is_what_its_run_returned() -> None:
    class Doubling(Thread):
        def __init__(self, number: int) -> None:
            super().__init__(name="doubling")
            self.number = number

        def run(self) -> int:
            return 2 * self.number

    thread = Doubling(21)
    thread.start()
    assert (thread.result(), thread.result(), thread.exception()) == (42, 42, None)
    assert isinstance(thread, threading.Thread)
    assert thread.run() == 42  # as before: what was put in its place is gone


def test_the_result_of_a_run_that_was_set_on_the_thread() -> None:
    thread = Thread()
    thread.run = lambda: 7  # type: ignore[method-assign,assignment,return-value]
    thread.start()
    assert thread.result() == 7
    assert thread.run() == 7  # type: ignore[func-returns-value,comparison-overlap]


def test_a_thread_without_a_target_returns_none() -> None:
    assert started().result() is None


def test_an_error_is_raised_by_result_and_reported_at_once(reported: list[BaseException | None]) -> None:
    thread = started(target=fail)
    threading.Thread.join(thread)
    error = thread.exception()
    assert reported == [error]
    for _ in range(2):
        with pytest.raises(ValueError, match="nobody expects it") as caught:
            thread.result()
        assert caught.value is error
    assert traceback.extract_tb(error.__traceback__)[-1].name == "fail"


def test_an_error_that_somebody_waits_for_is_not_reported(reported: list[BaseException | None]) -> None:
    def fail_when_waited_for() -> None:
        me = current_thread()
        while not me._waiting:  # type: ignore[attr-defined]
            os.sched_yield()
        fail()

    with pytest.raises(ValueError, match="nobody"):
        started(target=fail_when_waited_for).result()
    assert isinstance(started(target=fail_when_waited_for).exception(), ValueError)
    assert reported == []


def test_a_wait_that_ran_out_does_not_keep_an_error_from_being_reported(
    reported: list[BaseException | None], gate: threading.Event
) -> None:
    def fail_later() -> None:
        gate.wait()
        fail()

    thread = started(target=fail_later)
    with pytest.raises(multitask.TimeoutError, match="still runs after 0 s"):
        thread.result(timeout=0)
    gate.set()
    threading.Thread.join(thread)
    assert len(reported) == 1


def test_system_exit_ends_the_thread_and_is_its_error(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest's own reports it
    thread = started(target=lambda: exec("raise SystemExit(3)"))
    thread.join()
    assert isinstance(thread.exception(), SystemExit)
    assert capfd.readouterr().err == ""


def test_cancel_ends_a_thread_that_looks(reported: list[BaseException | None]) -> None:
    def look() -> None:
        while True:
            current_token().check()
            os.sched_yield()

    thread = started(target=look)
    assert thread.cancel()
    thread.join()
    assert thread.cancelled()
    for ask in (thread.result, thread.exception):
        with pytest.raises(CancelledError):
            ask()
    assert reported == []
    assert not thread.cancel()  # it has ended


def test_cancel_ends_a_sleep_of_the_token() -> None:
    thread = started(target=lambda: current_token().wait(3600))
    thread.cancel()
    assert thread.result(10) is True
    assert not thread.cancelled()  # it returned
    assert CancelToken().wait(0) is False


def test_a_thread_cancelled_before_its_start_never_runs() -> None:
    ran: list[int] = []
    thread = Thread(target=ran.append, args=(1,))
    assert thread.cancel()
    assert not thread.cancelled()  # not yet
    thread.start()
    with pytest.raises(CancelledError):
        thread.result()
    assert ran == []
    assert thread.cancelled()


def test_a_cancelled_error_that_nobody_asked_for_is_an_error(reported: list[BaseException | None]) -> None:
    def fail_so() -> None:
        raise CancelledError("of something else")

    thread = started(target=fail_so)
    thread.join()
    assert not thread.cancelled()
    assert isinstance(thread.exception(), CancelledError)
    assert len(reported) == 1


def test_the_token_of_one_thread_is_not_that_of_another() -> None:
    first, second = (started(target=current_token) for _ in range(2))
    assert first.result() is first.token
    assert second.result() is second.token
    assert first.token is not second.token
    assert current_token() is current_token()
    assert not current_token().cancelled()
    first.token.cancel()
    assert (repr(first.token), repr(second.token)) == ("<CancelToken cancelled>", "<CancelToken>")


def test_a_forgotten_init_says_what_to_write() -> None:
    class Forgetful(Thread):
        def __init__(self) -> None:
            self.number = 1

    thread = Forgetful()
    for call in (thread.start, thread.join, thread.result, thread.exception, thread.cancel):
        with pytest.raises(RuntimeError, match=r"Forgetful.__init__ has not called Thread's\n.*super\(\).__init__\(\)"):
            call()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target": len, "args": 5}, r"write Thread\(target=len, args=\(5,\)\)"),
        ({"target": len, "args": "word"}, r"args=\('word',\)\)"),
        ({"target": print()}, None),
        ({"target": 5}, "target must be a callable, not 5"),
        ({"target": len, "kwargs": 5}, "a mapping"),
    ],
)
def test_what_cannot_be_called_is_refused_at_the_door(arguments: dict[str, object], says: str | None) -> None:
    if says is None:
        Thread(**arguments)  # type: ignore[arg-type]
        return
    with pytest.raises(TypeError, match=says):
        Thread(**arguments)  # type: ignore[arg-type]


def test_wrong_uses_raise_as_in_the_standard_library(
    gate: threading.Event, reported: list[BaseException | None]
) -> None:
    thread = Thread(target=gate.wait)
    for call in (thread.join, thread.result):
        with pytest.raises(RuntimeError, match="before it is started"):
            call()
    thread.start()
    with pytest.raises(RuntimeError, match="once"):
        thread.start()
    assert "run" not in thread.__dict__
    gate.set()
    assert thread.result() is True
    of_itself = started(target=lambda: current_thread().result())  # type: ignore[attr-defined]
    assert isinstance(of_itself.exception(), RuntimeError)


def test_ctrl_c_ends_a_join(gate: threading.Event) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        gate.wait()

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # it may come as early as in start()
        thread = Thread(target=interrupt)
        thread.start()
        thread.join()
    gate.set()


def test_a_thread_that_returned_is_freed_at_once() -> None:
    gc.disable()
    try:
        thread = started(target=list)
        thread.result()
        gone = weakref.ref(thread)
        del thread
        assert gone() is None
    finally:
        gc.enable()


def test_the_names_are_those_of_the_standard_library() -> None:
    thread = Thread(target=fail, daemon=True)
    assert thread.name.startswith("Thread-")
    assert thread.name.endswith("(fail)")
    assert (thread.daemon, thread.ident, thread.is_alive()) == (True, None, False)
    assert started(target=current_thread).result() in threading._dangling  # type: ignore[attr-defined]
