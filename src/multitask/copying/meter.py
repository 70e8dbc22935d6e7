"""Tells how far a copy is, about ten times a second: what is done, and what stands in large files meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from multitask._engine import clock
from multitask.copying.plan import Batch, Plan
from multitask.copying.report import CopyReport, Progress, Rate, weight

REFRESH_SECONDS = 0.1


class Meter:
    """Reads the report and the plan, and tells *tell*; owner: the thread that drives the copy.

    *size_of* gives the bytes that stand in the temporary file of a batch: a large file is one batch and takes long.
    """

    def __init__(
        self, tell: Callable[[Progress], None] | None, report: CopyReport, plan: Plan, size_of: Callable[[Batch], int]
    ) -> None:
        self._tell, self._report, self._plan, self._size_of = tell, report, plan, size_of
        self.start()

    def start(self) -> None:
        """From here on time counts."""
        self._began = self._told = clock.monotonic()
        self._rate = Rate(self._began)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return clock.monotonic() - self._began

    def in_time(self, in_flight: Iterable[Batch]) -> None:
        """Tell when it is time to."""
        now = clock.monotonic()
        if now - self._told >= REFRESH_SECONDS:
            self._told = now
            self.read(in_flight)

    def read(self, in_flight: Iterable[Batch]) -> None:
        """Tell now."""
        if self._tell is None:
            return
        report, found, now = self._report, self._plan.found, clock.monotonic()
        large = (batch for batch in in_flight if batch.entries == 1 and batch.bytes >= self._plan.large_bytes)
        files, size = report.files + report.kept + report.failed, report.bytes + sum(map(self._size_of, large))
        self._rate.add(now, files, size)
        rest = weight(found.files + found.links, found.bytes) - weight(files + report.links, size)
        self._tell(
            Progress(
                files=files,
                bytes=size,
                total_files=found.files,
                total_bytes=found.bytes,
                counted=self._plan.complete,
                failed=report.failed,
                seconds=now - self._began,
                rate=self._rate.bytes_per_second(),
                seconds_left=self._rate.seconds_for(max(rest, 0)),
            )
        )
