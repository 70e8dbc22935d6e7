"""map, starmap and their async forms."""

from __future__ import annotations

import pytest
import work

import multitask


@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
def test_map_keeps_the_order_of_the_items(pool, chunksize):
    assert pool.map(work.add_one, range(50), chunksize) == list(range(1, 51))
    assert pool.map(work.add_one, list(range(50)), chunksize) == list(range(1, 51))
    assert pool.map(work.add_one, (i for i in range(50)), chunksize) == list(range(1, 51))


def test_map_accepts_every_kind_of_iterable(pool):
    assert pool.map(ord, "abc") == [97, 98, 99]
    assert pool.map(work.add_one, b"abc") == [98, 99, 100]
    assert sorted(pool.map(work.add_one, {1, 2})) == [2, 3]
    assert pool.map(str.upper, {"a": 1, "b": 2}) == ["A", "B"]


def test_starmap_unpacks_its_items(pool):
    assert pool.starmap(work.return_arguments, [(1, 2), [3], "ab", ()]) == [(1, 2), (3,), ("a", "b"), ()]
    assert pool.starmap_async(pow, zip([2, 3], [3, 2], strict=True)).get() == [8, 9]


def test_a_map_over_nothing_is_an_empty_list_at_once(pool):
    assert pool.map(work.add_one, []) == []
    assert pool.starmap(work.add_one, iter(())) == []
    task = pool.map_async(work.add_one, [])
    assert task.ready() and task.get(0) == []


def test_the_error_of_the_first_failing_item_is_raised_after_all_have_ended(pool, tmp_path):
    mark = tmp_path / "mark"
    items = [(mark, 0), (mark, "bad"), (mark, 2), (mark, "worse"), (mark, 4)]
    with pytest.raises(TypeError, match="concatenate|unsupported"):
        pool.starmap(work.mark_and_add, items, chunksize=1)
    assert sorted(work.lines(mark)) == ["0", "2", "4", "bad", "worse"]
    with pytest.raises(ValueError, match="3"):
        pool.map(work.raise_if_odd, [0, 2, 3, 5, 6], chunksize=1)


def test_a_chunksize_below_one_is_refused(pool):
    with pytest.raises(ValueError, match="chunksize"):
        pool.map(work.add_one, [1], chunksize=0)


def test_an_iterable_that_raises_makes_map_raise_it_and_the_pool_lives(pool):
    def broken():
        yield 1
        raise LookupError("the iterable broke")

    with pytest.raises(LookupError, match="the iterable broke"):
        pool.map(work.add_one, broken())
    with pytest.raises(TypeError):
        pool.map(work.add_one, 5)
    assert pool.map(work.add_one, [1]) == [2]


def test_map_async_gives_a_task_for_the_whole_list(pool):
    task = pool.map_async(work.add_one, range(30), chunksize=7)
    assert isinstance(task, multitask.Task)
    assert task.get() == list(range(1, 31))
    assert task.successful() and task.ready() and task.done()
    assert "add_one" in repr(task)


@pytest.mark.processes
def test_an_item_that_cannot_travel_fails_the_map_and_not_the_pool(pool):
    import threading

    with pytest.raises(multitask.CannotTravel):
        pool.map(work.add_one, [1, threading.Lock(), 3], chunksize=1)
    assert pool.map(work.add_one, [1]) == [2]


@pytest.mark.workers
def test_ctrl_c_stops_a_map_and_keeps_the_pool(pool, gate, interrupt_when):
    with pytest.raises(KeyboardInterrupt):
        interrupt_when(lambda: gate.wait_arrived(2))
        pool.map(gate.hold, range(2), chunksize=1)
    gate.release(2)
    assert pool.map(work.add_one, range(4)) == [1, 2, 3, 4]


@pytest.mark.workers
def test_cancelling_a_map_cancels_what_waits(one, gate, tmp_path):
    blocker = one.submit(gate.hold)
    gate.wait_arrived()
    mark = tmp_path / "mark"
    task = one.starmap_async(work.mark_and_add, [(mark, i) for i in range(4)], chunksize=1)
    assert task.cancel()
    assert task.cancelled()
    with pytest.raises(multitask.CancelledError):
        task.get()
    gate.release()
    blocker.result()
    assert one.apply(work.add_one, (1,)) == 2
    assert work.lines(mark) == []


def test_progress_counts_to_the_end_in_plain_lines(pool, capsys):
    assert pool.map(work.add_one, range(10), progress="adding") == list(range(1, 11))
    assert list(pool.imap(work.add_one, iter(range(10)), progress=True)) == list(range(1, 11))
    pool.close()
    pool.join()
    error = capsys.readouterr().err
    assert "adding: 10 of 10 (100%)" in error
    assert "add_one: 10 after" in error
