"""The plan: what was found comes out again, each entry once, in batches of bounded size."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from multitask.copying.plan import MOST_TRIES, Batch, Folder, Part, Plan, halves

Entry = tuple[str, int]  # ("f", size), ("l", 0) a link, ("d", 0) from here on a new folder

entries = st.lists(
    st.tuples(st.sampled_from("fffld"), st.integers(0, 50)).map(lambda pair: (pair[0], pair[1])), max_size=120
)


def folder(path: str) -> Folder:
    return Folder(path, 0o755, 0, 0, 0, 0)


def tell(plan: Plan, found: list[Entry]) -> tuple[list[str], list[str], list[str]]:
    """Tell the plan; returns the paths of files, links and folders."""
    files, links, folders = [], [], [""]
    plan.enter(folder(""))
    for number, (kind, size) in enumerate(found):
        here = folders[-1]
        if kind == "d":
            folders.append(f"folder{number}")
            plan.enter(folder(folders[-1]))
        elif kind == "l":
            plan.link(f"link{number}")
            links.append(f"{here}/link{number}")
        else:
            plan.file(f"file{number}", size)
            files.append(f"{here}/file{number}")
    plan.close()
    return files, links, folders


def take_all(plan: Plan) -> list[Batch]:
    taken = []
    while batch := plan.take():
        taken.append(batch)
    return taken


@given(entries)
def test_every_entry_is_in_exactly_one_batch(found: list[Entry]) -> None:
    plan = Plan(batch_entries=5, batch_bytes=60, large_bytes=40)
    files, links, folders = tell(plan, found)
    parts = [part for batch in take_all(plan) for part in batch.parts]
    assert Counter(f"{part.folder}/{name}" for part in parts for name in part.files) == Counter(files)
    assert Counter(f"{part.folder}/{name}" for part in parts for name in part.links) == Counter(links)
    assert {part.folder for part in parts} == set(folders), "a folder would be made by nobody"
    assert [each.path for each in plan.folders] == folders
    assert plan.found.entries == len(files) + len(links) + len(folders)


@given(entries)
def test_a_batch_has_bounded_size_and_a_number_of_its_own(found: list[Entry]) -> None:
    plan = Plan(batch_entries=5, batch_bytes=60, large_bytes=40)
    tell(plan, found)
    batches = take_all(plan)
    assert all(batch.entries <= 5 for batch in batches)
    assert all(batch.bytes < 60 + 40 or batch.entries == 1 for batch in batches)
    assert len({batch.number for batch in batches}) == len(batches)


@given(entries, st.integers(0, 30))
def test_untaken_counts_what_no_worker_has(found: list[Entry], taken: int) -> None:
    plan = Plan(batch_entries=5, batch_bytes=60, large_bytes=40)
    tell(plan, found)
    given_out = [batch for _ in range(taken) if (batch := plan.take())]
    assert plan.untaken + sum(batch.entries for batch in given_out) == plan.found.files + plan.found.links


def test_untaken_counts_the_open_folder_too() -> None:
    plan = Plan()
    plan.enter(folder(""))
    plan.file("a", 1)
    plan.link("b")
    assert plan.take() is None
    assert plan.untaken == 2


def test_large_files_come_first_and_alone() -> None:
    plan = Plan(large_bytes=1000)
    plan.enter(folder(""))
    plan.file("small", 1)
    plan.file("large", 1000)
    plan.close()
    first, second = plan.take(), plan.take()
    assert first is not None and first.paths == ["large"]
    assert second is not None and second.paths == ["small"]


def test_a_huge_flat_folder_is_cut_into_batches() -> None:
    plan = Plan(batch_entries=100)
    plan.enter(folder("flat"))
    for number in range(1000):
        plan.file(str(number), 0)
    plan.close()
    assert [batch.entries for batch in take_all(plan)] == [99] + [100] * 9 + [1]


def test_small_folders_share_a_batch() -> None:
    plan = Plan()
    for number in range(20):
        plan.enter(folder(str(number)))
        plan.file("a", 1)
    plan.close()
    assert [len(batch.parts) for batch in take_all(plan)] == [20]


names = st.lists(st.text("ab", min_size=1, max_size=3), max_size=6, unique=True).map(tuple)


@given(st.lists(st.builds(Part, st.text("xyz", max_size=2), names, names), max_size=6))
def test_halves_hold_the_same_entries_and_folders(parts: list[Part]) -> None:
    def listed(some: tuple[Part, ...]) -> Counter[tuple[str, str, str]]:
        both = [(part.folder, name, "f") for part in some for name in part.files]
        return Counter(both + [(part.folder, name, "l") for part in some for name in part.links])

    left, right = halves(tuple(parts))
    assert listed(left) + listed(right) == listed(tuple(parts))
    assert {part.folder for part in left + right} == {part.folder for part in parts}
    assert abs(sum(listed(left).values()) - sum(listed(right).values())) <= 1


def test_a_lost_batch_is_halved_until_the_deadly_entry_stands_alone() -> None:
    plan = Plan(batch_entries=200)
    plan.enter(folder(""))
    for number in range(100):
        plan.file(str(number), 1)
    plan.close()
    copied, given_up, tries = [], [], 0
    while batch := plan.take():
        if "66" in batch.paths:
            tries += 1
            if not plan.lost(batch):
                given_up += batch.paths
        else:
            copied += batch.paths
    assert given_up == ["66"]
    assert sorted(copied, key=int) == [str(number) for number in range(100) if number != 66]
    assert tries <= 7 + MOST_TRIES


def test_a_lost_batch_gets_a_new_number_so_that_its_temporary_file_is_its_own() -> None:
    plan = Plan()
    plan.enter(folder(""))
    plan.file("a", 1)
    plan.close()
    first = plan.take()
    assert first is not None and plan.lost(first)
    again = plan.take()
    assert again is not None and again.number != first.number
