"""G1, the native lane: a worker killed at each step of the protocol harms only the task that it ran.

Times are upper bounds: they run from the submit of a round, in which the worker dies, until all of it is settled.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from fault_work import Diary, add_one, content, record, record_item, record_size
from faults import Account, Execution, ended

from multitask import Pool, _native
from multitask.errors import WorkerLost

HITS = 50  # at least, for each step
BOUND_SECONDS = 2.0  # the guarantee
BLOCKED_REPLIES = 10  # the step at which a worker waits for room for its reply
STEPS = [step for step in range(1, 15) if step != BLOCKED_REPLIES]
HAYSTACK = bytes(20_000_000)

pytestmark = [pytest.mark.skipif(not _native.available, reason=_native.why_not), pytest.mark.slow]


def plan(seed: int) -> list[tuple[int, int]]:
    """Each step HITS times and a few more, after a few passes; most workers live long enough to be ready."""
    chance = random.Random(seed)
    entries = [(step, chance.randrange(1, 6)) for step in STEPS for _ in range(HITS + 5)]
    chance.shuffle(entries)
    at_start = [(step, 0) for step in STEPS for _ in range(3)]
    for place, entry in enumerate(at_start):
        # Far from each other: three workers in a row that die at their start are a broken pool, and rightly.
        entries.insert(place * 15, entry)
    return entries


def submit_round(pool: Pool, account: Account, path: str, large: bool) -> dict[int, object]:
    """Tasks of all kinds; by number. The worker needs definitions for the closures, segments for the large."""
    tasks: dict[int, object] = {}
    for _ in range(6):
        number = next(account.numbers)
        tasks[number] = pool.submit(record, path, number)
    number = next(account.numbers)
    tasks[number] = pool.submit(lambda: record(path, number))
    if large:
        number = next(account.numbers)
        tasks[number] = pool.submit(record_size, path, number, bytes(200_000), 200_000)
    return tasks


@pytest.mark.timeout(110)
def test_a_worker_killed_at_any_step_harms_only_the_task_that_it_ran(tmp_path: Path) -> None:
    diary = Diary(str(tmp_path / "diary"))
    account = Account()
    slowest, rounds = 0.0, 0
    with Execution(plan(1)).installed() as execution, ended(Pool(2, start_method="fork")) as pool:
        while not execution.done or min(execution.hits[step] for step in STEPS) < HITS:
            begun = time.monotonic()
            for number, task in submit_round(pool, account, diary.path, rounds % 10 == 0).items():
                account.settle(number, task)  # type: ignore[arg-type]
            slowest = max(slowest, time.monotonic() - begun)
            rounds += 1
            assert rounds < 20_000, f"not hit often enough: {execution.hits}"
        assert pool.submit(add_one, 1).result(10) == 2
    account.check(diary)
    hits = {step: execution.hits[step] for step in STEPS}
    print(f"\nkilled at step: {hits}; {rounds} rounds, {len(account.lost)} tasks lost, slowest round {slowest:.3f} s")
    assert len(account.lost) <= sum(hits.values())
    assert slowest < BOUND_SECONDS


@pytest.mark.timeout(110)
def test_a_worker_killed_while_it_waits_for_room_for_its_reply(tmp_path: Path) -> None:
    """The parent keeps the GIL, so that nobody collects and the ring of replies fills up."""
    account = Account()
    slowest, rounds = 0.0, 0
    plan = [(BLOCKED_REPLIES, after) for _ in range(HITS) for after in (0, 0)]
    with Execution(plan).installed() as execution, ended(Pool(1, start_method="fork")) as pool:
        while execution.hits[BLOCKED_REPLIES] < HITS:
            for _ in range(8):
                pool.submit(add_one, 1).result()  # short tasks: from now on many are sent ahead
            begun = time.monotonic()
            tasks = [pool.submit(content, 60_000) for _ in range(40)]
            assert HAYSTACK.count(b"1") == 0
            for task in tasks:
                account.settle(next(account.numbers), task)
            slowest = max(slowest, time.monotonic() - begun)
            rounds += 1
            assert rounds < 5_000, f"not hit often enough: {execution.hits}"
    hits = execution.hits[BLOCKED_REPLIES]
    print(f"\nkilled at step {BLOCKED_REPLIES}: {hits}; {rounds} rounds, slowest {slowest:.3f} s")
    assert len(account.lost) <= hits
    assert slowest < BOUND_SECONDS


@pytest.mark.timeout(60)
@pytest.mark.parametrize("step", [2, 3, 5, 6, 13, 14])
def test_a_published_result_counts_and_an_unpublished_one_does_not(tmp_path: Path, step: int) -> None:
    """The first task's worker dies at a known step: before the reply is committed it is lost, after it it counts."""
    diary = Diary(str(tmp_path / "diary"))
    after = {2: 1, 3: 1, 6: 0, 5: 0, 13: 0, 14: 0}[step]  # the first reply is the report for work
    with Execution([(step, after)]).installed() as execution, ended(Pool(1, start_method="fork")) as pool:
        tasks = [pool.submit(record, diary.path, number) for number in range(4)]
        errors = [task.exception(10) for task in tasks]
    assert execution.hits[step] == 1
    expected_lost = step in (2, 13)
    assert isinstance(errors[0], WorkerLost) == expected_lost, errors[0]
    assert errors[1:] == [None] * 3
    runs = [int(line[0]) for line in diary.lines()]
    assert sorted(runs) == ([1, 2, 3] if step == 13 else [0, 1, 2, 3])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("step", [1, 2, 13])
def test_of_a_chunk_killed_at_a_step_all_items_share_the_fate(tmp_path: Path, step: int) -> None:
    diary = Diary(str(tmp_path / "diary"))
    after = 0 if step == 13 else 1
    with Execution([(step, after)]).installed(), ended(Pool(1, start_method="fork")) as pool:
        mapped = pool.map_async(record_item, [(diary.path, number) for number in range(20)], chunksize=10)
        error = mapped.exception(10)
        assert isinstance(error, WorkerLost)
        assert error.item == (0 if step == 13 else 9)
        assert [int(line[0]) for line in diary.lines()].count(15) == 1
        assert pool.map(add_one, range(3)) == [1, 2, 3]
