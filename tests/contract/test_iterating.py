"""imap, imap_unordered and stream, over every kind of worker."""

from __future__ import annotations

import gc
import itertools
import os
import queue
import threading

import pytest
import work

import multitask


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_imap_keeps_the_order_and_imap_unordered_loses_nothing(pool, chunksize):
    for items in (range(100), list(range(100)), (i for i in range(100)), iter(range(100))):
        assert list(pool.imap(work.add_one, items, chunksize)) == list(range(1, 101))
    for items in (range(100), (i for i in range(100))):
        assert sorted(pool.imap_unordered(work.add_one, items, chunksize)) == list(range(1, 101))
    assert list(pool.stream(work.add_one, range(100), chunksize=chunksize)) == list(range(1, 101))
    assert list(pool.imap(work.add_one, [])) == list(pool.imap_unordered(work.add_one, iter(()))) == []


@pytest.mark.parametrize(("buffer", "chunksize"), [(1, 1), (2, 1), (7, 3), (5, 5), (3, 10), (64, 1)])
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_never_more_than_buffer_items_are_pulled_ahead_of_what_was_yielded(pool, buffer, chunksize, ordered):
    pulled, yielded, worst = 0, 0, 0

    def endless():
        nonlocal pulled, worst
        for item in itertools.count():
            pulled += 1
            worst = max(worst, pulled - yielded)
            yield item

    results = pool.stream(work.add_one, endless(), ordered=ordered, buffer=buffer, chunksize=chunksize)
    for _ in results:
        yielded += 1
        if yielded == 200:
            break
    results.close()
    assert worst <= buffer
    assert buffer < 64 or pool.kind == "inline" or worst > 1


@pytest.mark.workers
def test_finished_results_come_while_the_iterator_blocks(pool):
    more = queue.Queue()
    results = pool.imap(work.add_one, iter(more.get, None))
    for i in range(5):
        more.put(i)
        assert next(results) == i + 1
    with pytest.raises(multitask.TimeoutError):
        results.next(timeout=0.01)
    more.put(5)
    assert results.next(timeout=60) == 6
    more.put(None)
    with pytest.raises(StopIteration):
        next(results)


def test_an_iterator_that_raises_gives_the_results_before_it_first(pool):
    def broken():
        yield from range(10)
        raise LookupError("the iterator broke")

    for chunksize in (1, 5):
        results = pool.imap(work.add_one, broken(), chunksize)
        assert [next(results) for _ in range(10)] == list(range(1, 11))
        with pytest.raises(LookupError, match="the iterator broke"):
            next(results)
        with pytest.raises(StopIteration):
            next(results)
    got = []
    with pytest.raises(LookupError):
        for value in pool.imap_unordered(work.add_one, broken()):
            got.append(value)
    assert sorted(got) == list(range(1, 11))


def test_what_cannot_be_iterated_is_refused_at_the_call(pool):
    for method in (pool.imap, pool.imap_unordered, pool.stream):
        with pytest.raises(TypeError):
            method(work.add_one, 5)
    with pytest.raises(ValueError, match="Chunksize must be 1"):
        pool.imap(work.add_one, [1], 0)
    with pytest.raises(ValueError, match="buffer"):
        pool.imap(work.add_one, [1], buffer=0)


def test_after_a_failed_call_the_next_results_follow(pool):
    results = pool.imap(work.raise_if_odd, range(6))
    got = []
    while True:
        try:
            got.append(next(results))
        except ValueError as error:
            got.append(f"failed {error}")
        except StopIteration:
            break
    assert got == [0, "failed 1", 2, "failed 3", 4, "failed 5"]


@pytest.mark.workers
def test_unordered_yields_what_is_ready_while_the_first_item_hangs(pool, gate):
    results = pool.imap_unordered(gate_or_add, [(gate, 0), *[(None, i) for i in range(1, 20)]])
    first = [next(results) for _ in range(19)]
    assert sorted(first) == list(range(1, 20))
    gate.release()
    assert next(results) == 0
    with pytest.raises(StopIteration):
        next(results)


def gate_or_add(item):
    gate, number = item
    return number if gate is None else gate.hold(number)


@pytest.mark.workers
def test_a_dropped_iterator_cancels_what_waits_and_ends_its_feeder(one, gate, tmp_path):
    mark = tmp_path / "mark"
    closing, go = threading.Event(), threading.Event()

    def endless():
        try:
            yield gate, 0
            for i in itertools.count(1):
                yield mark, i
        finally:
            closing.set()
            go.wait(60)  # what waits is cancelled by now, however long this takes

    results = one.imap(hold_or_mark, endless(), buffer=10)
    gate.wait_arrived()
    before = threading.active_count()
    del results
    assert closing.wait(60)
    gate.release()
    assert one.apply(work.add_one, (1,)) == 2  # what was not cancelled has run before it
    go.set()
    one.close()
    one.join()
    assert threading.active_count() < before
    assert work.lines(mark) == []


def hold_or_mark(item):
    where, number = item
    return where.hold(number) if number == 0 else work.append_line(where, number)


@pytest.mark.workers
def test_a_closed_iterator_is_at_its_end(pool):
    with pool.imap(work.add_one, itertools.count()) as results:
        assert next(results) == 1
    with pytest.raises(StopIteration):
        next(results)


def test_an_endless_iterator_does_not_keep_a_with_block_from_ending(variant):
    with variant.pool(2) as pool:
        results = pool.imap(work.add_one, itertools.count(), buffer=5)
        assert [next(results) for _ in range(7)] == list(range(1, 8))
    rest = []
    with pytest.raises(multitask.PoolClosed, match="before this iterator was read to its end"):
        for value in results:
            rest.append(value)
    assert rest == list(range(8, 8 + len(rest)))


@pytest.mark.parametrize("as_items", [list, iter], ids=["list", "iterator"])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_results_may_be_read_after_close_and_join_as_in_multiprocessing(pool, method, as_items):
    results = getattr(pool, method)(work.add_one, as_items(list(range(1000))))
    pool.close()
    pool.join()
    assert sorted(results) == list(range(1, 1001))


@pytest.mark.workers
def test_terminate_ends_an_iterator(one, gate):
    results = one.imap(gate.hold, itertools.count())
    gate.wait_arrived()
    one.terminate()
    with pytest.raises((multitask.CancelledError, multitask.PoolClosed)):
        next(results)
    gate.release()


@pytest.mark.workers
def test_ctrl_c_in_a_for_loop_is_raised_and_the_pool_stays_usable(pool, gate, interrupt_when):
    results = pool.imap(gate.hold, range(3))
    with pytest.raises(KeyboardInterrupt):
        interrupt_when(gate.wait_arrived)
        for _ in results:
            raise AssertionError("nothing was let through")
    gate.release(3)
    assert list(results) == [0, 1, 2]
    assert pool.map(work.add_one, [1]) == [2]


def test_several_threads_may_share_an_iterator(pool):
    results = pool.imap(work.add_one, (i for i in range(500)))
    got = []
    threads = [threading.Thread(target=lambda: got.extend(results)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, 501))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_million_results_of_an_endless_iterator_leave_memory_flat(method):
    with multitask.Pool(2) as pool:
        sizes = []
        for number, _ in enumerate(getattr(pool, method)(abs, itertools.count())):
            if number in (100_000, 1_000_000):
                gc.collect()
                with open("/proc/self/statm") as file:
                    sizes.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            if number == 1_000_000:
                break
    assert sizes[1] - sizes[0] < 4 << 20
