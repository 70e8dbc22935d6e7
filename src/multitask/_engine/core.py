"""What the engine asks of a core: the ledger of tasks together with the lanes to the workers.

Two cores keep this interface: ``_native.core.NativeCore`` (rings in shared memory) and
``_engine.portable.PortableCore`` (pipes, and queues between threads). The supervisor and the pool
know only what stands here.

Rule: the first group may be called by any thread, never blocks (``wait`` excepted) and runs no user code
while the core's lock is held. The second group belongs to the manager thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multitask._typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from multitask import task
    from multitask._engine.wire import Encoder

    Task = task.Task[Any]

CALL, CHUNK, STARCHUNK = 0, 1, 2
PENDING, FINISHED, CANCELLED = 0, 1, 2
GONE, TAKEN_BACK, RUNNING = 0, 1, 2

Event = tuple[Any, ...]


class Options(NamedTuple):
    """What a caller may ask of one task; made by ``Pool.options(...)``."""

    priority: int = 0
    timeout: float | None = None
    retries: int = 0
    backoff: float = 0.0
    name: str | None = None
    group: str | None = None


class Removed(NamedTuple):
    """What a dead worker left behind."""

    lost: Task | None  # the task that had started and has no published result
    item: int | None  # inside a chunk: the index of the item it was at
    started: float | None  # time.monotonic() at which the call started
    crumb: tuple[str, float] | None  # the last note of the task and its age in seconds
    returned: int  # tasks that had not started; they stand at the front of the line again


class Core(Protocol):
    failures: list[Any]
    broken: BaseException | None  # why submit refuses, when the pool could not go on

    @property
    def encoder(self) -> Encoder | None: ...
    @property
    def unfinished(self) -> int: ...
    @property
    def closed(self) -> bool: ...

    # any thread
    def submit(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any] | None,
        options: Options | None = None,
        mode: int = CALL,
        basket: Any = None,
    ) -> Task: ...
    def group(self, total: int) -> tuple[Task, Any]: ...
    def withdraw(self, task: Task) -> int: ...
    def wait(self, target: Any, timeout: float | None) -> bool: ...
    def post(self, obj: object) -> None: ...
    def running(self, task: Task) -> bool: ...
    def counts(self) -> tuple[int, int, int]: ...
    def pending(self) -> list[Task]: ...

    # the manager thread
    def attend(self, timeout: float | None) -> list[Event]: ...
    def watch(self, fd: int, wid: int) -> None: ...
    def unwatch(self, fd: int) -> None: ...
    def add_worker(self, wid: int, channel: Any) -> None: ...
    def remove_worker(self, wid: int) -> Removed: ...
    def retire(self, wid: int) -> None: ...
    def requeue(self, task: Task, front: bool = False) -> None: ...
    def settle(self, task: Task, status: int, ok: bool, value: object) -> None: ...
    def started(self, task: Task) -> float | None: ...
    def condemn(self, task: Task) -> int | None: ...
    def close(self) -> None: ...
    def dispose(self) -> None: ...
