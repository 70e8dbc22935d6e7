"""The checker itself: it finds textbook mistakes and passes their textbook cures."""

import pytest

from .checker import END, Model, Party, State, Violation, explore


def two_flags(*, fence: bool) -> Model:
    """Dekker's core: each raises a flag and looks at the other's; both must not see nothing."""
    parties = []
    for me, other in ((0, 1), (1, 0)):
        p = Party(f"p{me}", "raise_flag", buffered=True)

        def raise_flag(m: State, p: Party = p, me: int = me) -> str:
            p.store(m, ("flag", me), 1)
            return "look"

        def look(m: State, p: Party = p, me: int = me, other: int = other) -> str:
            if fence:
                p.fence(m)
            m["alone", me] = not p.load(m, ("flag", other))
            return END

        p.step(raise_flag)
        p.step(look)
        parties.append(p)
    return Model(
        parties,
        {("flag", 0): 0, ("flag", 1): 0, ("alone", 0): False, ("alone", 1): False},
        bad=lambda m: "both think they are alone" if m["alone", 0] and m["alone", 1] else None,
        at_rest=lambda m: None,
    )


def test_stores_overtaken_by_loads_are_found() -> None:
    with pytest.raises(Violation, match="both think they are alone"):
        explore(two_flags(fence=False))


def test_a_full_fence_cures_it() -> None:
    assert explore(two_flags(fence=True)).states > 5


def message(*, release: bool, mortal: bool = False) -> Model:
    """Bytes, then a commit word; the reader must see the bytes."""
    w = Party("writer", "fill", buffered=True, mortal=mortal)
    r = Party("reader", "read")

    @w.step
    def fill(m: State) -> str:
        w.store(m, "bytes", 7, release=False)
        return "commit"

    @w.step
    def commit(m: State) -> str:
        w.store(m, "word", 1, release=release)
        return END

    @r.step
    def read(m: State) -> str | None:
        if not m.word:
            return None
        m.got = m.bytes
        return END

    return Model(
        [w, r],
        {"bytes": 0, "word": 0, "got": None},
        bad=lambda m: "torn" if m.got == 0 else None,
        at_rest=lambda m: "the reader waits" if m.got is None else None,
    )


def test_a_release_store_comes_after_what_it_releases() -> None:
    explore(message(release=True))


def test_a_plain_commit_word_may_overtake_the_bytes() -> None:
    with pytest.raises(Violation, match="torn"):
        explore(message(release=False))


def test_a_death_that_leaves_somebody_waiting_is_found() -> None:
    with pytest.raises(Violation, match=r"the reader waits\n(.|\n)*writer: killed at"):
        explore(message(release=True, mortal=True))


def test_two_locks_in_two_orders_come_to_rest() -> None:
    parties = []
    for name, first, second in (("a", "x", "y"), ("b", "y", "x")):
        p = Party(name, "take_first")

        def take_first(m: State, first: str = first) -> str | None:
            if m[first]:
                return None
            m[first] = 1
            return "take_second"

        def take_second(m: State, first: str = first, second: str = second) -> str | None:
            if m[second]:
                return None
            m[first] = 0
            return END

        p.step(take_first)
        p.step(take_second)
        parties.append(p)
    model = Model(
        parties,
        {"x": 0, "y": 0},
        bad=lambda m: None,
        at_rest=lambda m: None if m["at", "a"] == m["at", "b"] == END else "somebody waits",
    )
    with pytest.raises(Violation, match="somebody waits"):
        explore(model)


def test_turning_round_for_ever_is_found() -> None:
    p = Party("p", "turn")

    @p.step
    def turn(m: State) -> str:
        m.side = not m.side
        return "turn"

    with pytest.raises(Violation, match="out of reach"):
        explore(Model([p], {"side": False}, bad=lambda m: None, at_rest=lambda m: None))


def test_alternatives_of_a_step_are_all_tried() -> None:
    p = Party("p", "choose")

    @p.step
    def choose(m: State) -> str:
        m.value = 1
        return END

    @p.step
    def choose_or_two(m: State) -> str:
        m.value = 2
        return END

    with pytest.raises(Violation, match="two"):
        explore(Model([p], {"value": 0}, lambda m: "two" if m.value == 2 else None, lambda m: None))
