"""Drives one copy: walks a slice, hands batches to the pool, takes outcomes in, finishes the folders last.

Owner: the calling thread does all of it. The pool's callback thread only puts finished tasks into a queue.
Rule: a batch is in the plan, in flight, or accounted for in the report; a batch that is lost goes back to the plan.
"""

from __future__ import annotations

import errno
import os
import queue
import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from multitask._engine import clock
from multitask.copying import folders, steps
from multitask.copying.attributes import Keep, keep_attributes
from multitask.copying.plan import Batch, Folder, Plan
from multitask.copying.report import CopyReport, Progress, Rate, weight
from multitask.copying.walk import FAILED, Ignore, Problem, Walk
from multitask.errors import MultitaskError, WorkerLost

if TYPE_CHECKING:
    from concurrent.futures import Future

    from multitask.pool import Pool

# So many batches are given to the pool at a time, per worker: enough that none waits while this thread walks.
DEPTH = 4
# So far the walk may run ahead, in batches: the totals are known early and memory stays bounded.
AHEAD = 20_000
REFRESH_SECONDS = 0.1

Tell = Callable[[Progress], None]
Complain = Callable[[Problem], None]


class Copy:
    """One copy of a folder. Make it, ``run()`` it once, read the report.

    ``walk_first`` finds everything before anything is made, for a destination inside the source.

    ``on_progress`` is called about ten times a second, ``on_problem`` for each entry that was not copied, both in
    the calling thread.
    """

    def __init__(
        self,
        source: str,
        target: str,
        *,
        jobs: int | None = None,
        kind: str = "process",
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
        # The workers' current folder may be another one.
        self._orders = steps.Orders(
            os.path.abspath(source),
            os.path.abspath(target),
            secrets.token_hex(4),
            follow=follow,
            resume=resume,
            keep=keep or Keep(),
            copy_function=copy_function,
        )
        self.plan = Plan()
        self.report.found = self.plan.found
        walk_options: dict[str, Any] = {"follow": follow, "ignore": ignore, "ignore_dangling": ignore_dangling}
        self._walk: Iterator[None] = iter(Walk(source, self.plan, self._problem, **walk_options))
        self._walk_first = walk_first
        self._on_progress, self._on_problem = on_progress, on_problem
        self._handing_out: Batch | None = None
        self._interrupted = False
        self._in_flight: dict[Future[steps.Outcome], Batch] = {}
        self._done: queue.SimpleQueue[Future[steps.Outcome]] = queue.SimpleQueue()

    def run(self) -> CopyReport:
        """Copy; returns the report, also after Ctrl-C (``report.interrupted``) and on a full disk."""
        self._began = self._told = clock.monotonic()
        self._rate = Rate(self._began)
        try:
            if self._walk_first:
                for _ in self._walk:
                    self._check_interrupted()
            os.makedirs(self._orders.target, exist_ok=True)
            self._with_pool()
            if not self.report.stopped:
                self._finish_folders()
        except KeyboardInterrupt:
            self.report.interrupted = True
        except MultitaskError as error:
            self.report.stopped = _first_line(error)
        finally:
            self._settle_accounts()
            steps.forget(self._orders.token)
        self._tell()
        return self.report

    def interrupt(self) -> None:
        """End the copy at the next safe point, at most a tenth of a second away; for signal handlers."""
        self._interrupted = True

    def _check_interrupted(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

    # --- batches
    def _with_pool(self) -> None:
        from multitask.pool import Pool

        pool = Pool(self._jobs, kind=self._kind, name="copy")
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
            # After a kill, temporary files may be left; the pool is closed now, so nobody writes them any more.
            for batch in self._untold():
                self._sweep(batch)

    def _drive(self, pool: Pool) -> None:
        walking = True
        while True:
            self._check_interrupted()
            self._hand_out(pool)
            self._take_in(block=not walking)
            if walking and self.plan.waiting < AHEAD and not self.report.stopped:
                walking = next(self._walk, self) is None
            elif walking and self._in_flight:
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
        self._tell_in_time()

    def _account(self, task: Future[steps.Outcome]) -> None:
        batch = self._in_flight[task]
        error = task.exception()
        if error is None:
            self._outcome(batch, task.result())
        elif isinstance(error, WorkerLost):
            self._sweep(batch)
            if not self.plan.lost(batch):
                self._batch_failed(batch, f"the worker died over it {batch.tries} times ({_first_line(error)})")
        elif isinstance(error, MultitaskError):
            # The pool itself is broken: it will not be better for the next batch.
            self.report.stopped = self.report.stopped or _first_line(error)
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

    def _sweep(self, batch: Batch) -> None:
        """Remove the temporary file a killed worker may have left."""
        name = steps.temporary_name(self._orders.token, batch.number)
        try:
            root = folders.open_root(self._orders.target)
        except OSError:
            return
        try:
            for part in batch.parts:
                _remove(root, part.folder, name)
        finally:
            os.close(root)

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
                    self._tell_in_time()
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _finish_folder(self, source: int, target: int, folder: Folder) -> None:
        try:
            there = folders.open_target(target, folder.path)
            try:
                here = folders.open_source(source, folder.path)
                try:
                    keep_attributes(here, there, folder, self._orders.keep)
                finally:
                    os.close(here)
            finally:
                os.close(there)
        except OSError as error:
            self._problem(Problem(folder.path, FAILED, error.strerror or str(error), error.errno))
            return
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
        report.seconds = clock.monotonic() - self._began

    # --- progress
    def _tell_in_time(self) -> None:
        now = clock.monotonic()
        if now - self._told >= REFRESH_SECONDS:
            self._told = now
            self._tell()

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        report, found, now = self.report, self.plan.found, clock.monotonic()
        files, size = report.files + report.kept + report.failed, report.bytes + self._in_large()
        self._rate.add(now, files, size)
        rest = weight(found.files + found.links, found.bytes) - weight(files + report.links, size)
        self._on_progress(
            Progress(
                files=files,
                bytes=size,
                total_files=found.files,
                total_bytes=found.bytes,
                counted=self.plan.complete,
                failed=report.failed,
                seconds=now - self._began,
                rate=self._rate.bytes_per_second(),
                seconds_left=self._rate.seconds_for(max(rest, 0)),
            )
        )

    def _in_large(self) -> int:
        """Bytes that stand in the temporary files of large files: these are one batch each and take long."""
        size = 0
        for batch in self._in_flight.values():
            if batch.bytes >= self.plan.large_bytes and batch.entries == 1:
                name = steps.temporary_name(self._orders.token, batch.number)
                try:
                    size += os.stat(os.path.join(self._orders.target, batch.parts[0].folder, name)).st_size
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG, errno.ENOTDIR):
                        raise
        return size


def _remove(root: int, folder: str, name: str) -> None:
    try:
        there = folders.open_target(root, folder)
    except OSError:
        return
    try:
        os.unlink(name, dir_fd=there)
    except OSError:
        pass
    finally:
        os.close(there)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
