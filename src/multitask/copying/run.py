"""Drives one copy: walks a slice, hands batches to the pool, takes outcomes in, finishes the folders last.

Owner: the calling thread does all of it. The pool's callback thread only puts finished tasks into a queue.
Rule: a batch is in the plan, in flight, or accounted for in the report; a batch that is lost goes back to the plan.
"""

from __future__ import annotations

import functools
import os
import queue
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from multitask.copying import folders, steps
from multitask.copying.attributes import Keep
from multitask.copying.finish import finish_folder, sweep, temporary_size
from multitask.copying.meter import REFRESH_SECONDS, Meter
from multitask.copying.plan import Batch, Folder, Plan
from multitask.copying.report import CopyReport, Progress
from multitask.copying.walk import FAILED, Ignore, Problem, Walk
from multitask.errors import MultitaskError, WorkerLost

if TYPE_CHECKING:
    from concurrent.futures import Future

    from multitask.pool import Pool

# So many batches are given to the pool at a time, per worker: enough that none waits while this thread walks.
DEPTH = 4
# So far the walk may run ahead, in batches: the totals are known early and memory stays bounded.
AHEAD = 20_000

Tell = Callable[[Progress], None]
Complain = Callable[[Problem], None]


class Copy:
    """One copy of a folder. Make it, ``run()`` it once, read the report.

    ``kind`` None: processes, but a folder that is one small batch is copied by the calling thread, since starting
    workers would take longer. ``walk_first`` finds everything before anything is made, for a destination inside
    the source.

    ``on_progress`` is called about ten times a second, ``on_problem`` for each entry that was not copied, both in
    the calling thread.
    """

    def __init__(
        self,
        source: str,
        target: str,
        *,
        jobs: int | None = None,
        kind: str | None = None,
        resume: bool = False,
        follow: bool = False,
        keep: Keep | None = None,
        ignore: Ignore | None = None,
        ignore_dangling: bool = False,
        copy_function: Callable[[str, str], object] | None = None,
        walk_first: bool = False,
        on_progress: Tell | None = None,
        on_problem: Complain | None = None,
    ) -> None:
        self.report = CopyReport(source, target)
        self._jobs, self._kind = jobs, kind
        # The workers' current folder may be another one. Not abspath(): it takes "link/.." for ".".
        here = os.getcwd()
        self._orders = steps.Orders(
            os.path.join(here, source),
            os.path.join(here, target),
            os.urandom(4).hex(),
            follow=follow,
            resume=resume,
            keep=keep or Keep(),
            copy_function=copy_function,
        )
        self.plan = Plan()
        self.report.found = self.plan.found
        walk_options: dict[str, Any] = {"follow": follow, "ignore": ignore, "ignore_dangling": ignore_dangling}
        self._walk: Iterator[None] = iter(Walk(source, self.plan, self._problem, **walk_options))
        size_of = functools.partial(temporary_size, self._orders)
        self._meter = Meter(on_progress, self.report, self.plan, size_of)
        self._walk_first = walk_first
        self._on_problem = on_problem
        self._walking = True
        self._handing_out: Batch | None = None
        self._interrupted = False
        self._in_flight: dict[Future[steps.Outcome], Batch] = {}
        self._done: queue.SimpleQueue[Future[steps.Outcome]] = queue.SimpleQueue()

    def run(self) -> CopyReport:
        """Copy; returns the report, also after Ctrl-C (``report.interrupted``) and on a full disk."""
        self._meter.start()
        try:
            while self._walk_first and self._walking:
                self._walk_on()
            os.makedirs(self._orders.target, exist_ok=True)
            if self._kind is None and self._is_small():
                self._without_pool()
            else:
                self._with_pool()
            if not self.report.stopped:
                self._finish_folders()
        except KeyboardInterrupt:
            self.report.interrupted = True
        except MultitaskError as error:
            self.report.stopped = _reason(error)
        finally:
            self._settle_accounts()
            steps.forget(self._orders.token)
        self._meter.read(self._in_flight.values())
        return self.report

    def interrupt(self) -> None:
        """End the copy at the next safe point, at most a tenth of a second away; for signal handlers."""
        self._interrupted = True
        steps.stop(self._orders.token)

    def _check_interrupted(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

    def _walk_on(self) -> None:
        self._check_interrupted()
        self._walking = next(self._walk, self) is None

    # --- batches
    def _is_small(self) -> bool:
        """Look far enough to know whether it is worth starting workers."""
        plan = self.plan
        while self._walking and plan.waiting < 2:
            self._walk_on()
        return not self._walking and plan.waiting < 2 and plan.found.bytes <= plan.batch_bytes

    def _without_pool(self) -> None:
        batch = self._handing_out = self.plan.take()
        if batch is None:
            return
        try:
            outcome = steps.copy_batch(self._orders, batch)
        except Exception as error:
            self._batch_failed(batch, f"{type(error).__name__}: {_first_line(error)}")
        except BaseException:
            sweep(self._orders, batch)
            raise
        else:
            self._outcome(batch, outcome)
        self._handing_out = None
        self._check_interrupted()

    def _with_pool(self) -> None:
        from multitask.pool import Pool

        pool = Pool(self._jobs, kind=self._kind or "process", name="copy")
        try:
            with pool:
                self._depth = DEPTH * pool.processes
                try:
                    self._drive(pool)
                except BaseException:
                    # Threads cannot be killed: they are told before the pool is left on this error.
                    steps.stop(self._orders.token)
                    raise
        finally:
            # What ended while the pool was being stopped still counts. After a kill, temporary files may be left;
            # the pool is closed now, so nobody writes them any more.
            self._take_in(block=False)
            for batch in self._untold():
                sweep(self._orders, batch)

    def _drive(self, pool: Pool) -> None:
        while True:
            self._check_interrupted()
            self._hand_out(pool)
            self._take_in(block=not self._walking)
            if self._walking and self.plan.waiting < AHEAD and not self.report.stopped:
                self._walk_on()
            elif self._walking and self._in_flight:
                self._take_in(block=True)
            elif not self._in_flight and (self.report.stopped or not self.plan.waiting):
                return

    def _hand_out(self, pool: Pool) -> None:
        while len(self._in_flight) < self._depth and not self.report.stopped:
            batch = self._handing_out = self.plan.take()
            if batch is None:
                return
            task = pool.submit(steps.copy_batch, self._orders, batch)
            self._in_flight[task] = batch
            self._handing_out = None
            task.add_done_callback(self._done.put)

    def _take_in(self, *, block: bool) -> None:
        """Account for the tasks that have finished; with *block*, wait for one or for the next progress report."""
        wait = block and bool(self._in_flight)
        while True:
            try:
                task = self._done.get(timeout=REFRESH_SECONDS) if wait else self._done.get_nowait()
            except queue.Empty:
                break
            wait = False
            self._account(task)
        self._meter.in_time(self._in_flight.values())

    def _account(self, task: Future[steps.Outcome]) -> None:
        if task.cancelled():
            return  # by the end of the pool: it stays in flight, and is counted as left
        batch = self._in_flight[task]
        error = task.exception()
        if error is None:
            self._outcome(batch, task.result())
        elif isinstance(error, WorkerLost):
            sweep(self._orders, batch)
            if not self.plan.lost(batch):
                self._batch_failed(batch, f"the worker died over it {batch.tries} times ({_first_line(error)})")
        elif isinstance(error, MultitaskError):
            # The pool itself is broken: it will not be better for the next batch.
            self.report.stopped = self.report.stopped or _reason(error)
            self.report.left += batch.entries
        else:
            self._batch_failed(batch, f"{type(error).__name__}: {_first_line(error)}")
        # Only now: whoever stops us in between finds the batch still in flight and sweeps it.
        del self._in_flight[task]

    def _outcome(self, batch: Batch, outcome: steps.Outcome) -> None:
        report = self.report
        report.files += outcome.files
        report.links += outcome.links
        report.kept += outcome.kept
        report.bytes += outcome.bytes
        for problem in outcome.problems:
            self._problem(problem)
        report.left += batch.entries - outcome.files - outcome.links - outcome.kept - len(outcome.problems)
        if outcome.full and not report.stopped:
            report.stopped = f"the disk of the destination takes no more ({outcome.full})"

    def _batch_failed(self, batch: Batch, why: str) -> None:
        for path in batch.paths:
            self._problem(Problem(path, FAILED, why))

    def _problem(self, problem: Problem) -> None:
        self.report.note(problem)
        if self._on_problem is not None:
            self._on_problem(problem)

    # --- the end
    def _finish_folders(self) -> None:
        """Give folders their modes and times, the deepest first: a read-only one is not entered again."""
        source = folders.open_root(self._orders.source)
        try:
            target = folders.open_root(self._orders.target)
            try:
                waiting = self.plan.folders
                while waiting:
                    self._check_interrupted()
                    self._finish_folder(source, target, waiting[-1])
                    waiting.pop()
                    self._meter.in_time(self._in_flight.values())
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _finish_folder(self, source: int, target: int, folder: Folder) -> None:
        try:
            finish_folder(source, target, folder, self._orders.keep)
        except OSError as error:
            self._problem(Problem(folder.path, FAILED, error.strerror or str(error), error.errno))
        else:
            self.report.folders += 1

    def _untold(self) -> list[Batch]:
        """Batches that were taken and whose outcome is not known."""
        unsent = [self._handing_out] if self._handing_out is not None else []
        return [*self._in_flight.values(), *unsent]

    def _settle_accounts(self) -> None:
        """Count what was found and not tried, so that everything found is accounted for."""
        report = self.report
        in_flight = sum(batch.entries for batch in self._untold())
        report.left += self.plan.untaken + in_flight + len(self.plan.folders)
        report.seconds = self._meter.seconds


def _reason(error: MultitaskError) -> str:
    return f"{error.what} ({error.why})" if error.why else error.what


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
