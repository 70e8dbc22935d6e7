"""Pool.options: priority, timeout, retries, names."""

from __future__ import annotations

import pytest
import work

import multitask


def test_a_view_has_all_the_methods_of_its_pool(pool):
    view = pool.options(name="seen")
    assert view.apply(work.add_one, (1,)) == 2
    assert view.map(work.add_one, [1, 2]) == [2, 3]
    assert view.starmap(pow, [(2, 3)]) == [8]
    assert list(view.imap(work.add_one, [1])) == [2]
    assert list(view.imap_unordered(work.add_one, [1])) == [2]
    assert list(view.stream(work.add_one, [1])) == [2]
    assert view.map_async(work.add_one, [1]).get() == [2]
    assert view.submit(work.keywords, name=1, timeout=2).result() == ((), {"name": 1, "timeout": 2})


def test_options_add_up(pool):
    task = pool.options(name="a").options(retries=1).submit(work.add_one, 1)
    assert task.name == "a"
    assert task._options.retries == 1
    task.result()


def test_a_retried_task_is_run_again_until_it_succeeds(pool, tmp_path):
    assert pool.options(retries=3).submit(work.fail_until, tmp_path / "a", 2).result() == 3
    with pytest.raises(OSError, match="not yet"):
        pool.options(retries=1).submit(work.fail_until, tmp_path / "b", 5).result()
    assert len(work.lines(tmp_path / "b")) == 2


@pytest.mark.processes
def test_a_task_over_its_timeout_gets_task_timeout_and_nobody_else_notices(variant, gate):
    with variant.pool(2) as pool:
        stuck = pool.options(timeout=0.3).submit(gate.hold)
        others = [pool.submit(work.add_one, i) for i in range(50)]
        assert [task.result() for task in others] == list(range(1, 51))
        with pytest.raises(multitask.TaskTimeout) as caught:
            stuck.result()
        assert not isinstance(caught.value, TimeoutError)
        assert pool.apply(work.add_one, (1,)) == 2


@pytest.mark.parametrize("kind", ["thread", "inline"])
def test_a_thread_refuses_a_timeout_and_says_which_kind_can(kind):
    with multitask.Pool(1, kind=kind) as pool:
        with pytest.raises(multitask.NotSupported, match="kind='process'"):
            pool.options(timeout=1)


@pytest.mark.parametrize(
    "wrong", [{"timeout": -1}, {"timeout": 0}, {"retries": -1}, {"retries": 0.5}, {"backoff": -1.0}], ids=repr
)
def test_wrong_options_are_refused_at_once(pool, wrong):
    with pytest.raises(ValueError):
        pool.options(**wrong)


@pytest.mark.workers
def test_under_the_priority_policy_greater_runs_first(variant, gate, tmp_path):
    mark = tmp_path / "mark"
    with variant.pool(1, policy="priority") as pool:
        pool.submit(gate.hold)
        gate.wait_arrived()
        # More than a lane holds, so that the order is the policy's and not the lane's.
        for priority in (0, 2, 1):
            for _ in range(3):
                pool.options(priority=priority * 100).submit(work.append_line, mark, priority)
        gate.release()
    assert work.lines(mark) == ["2"] * 3 + ["1"] * 3 + ["0"] * 3
