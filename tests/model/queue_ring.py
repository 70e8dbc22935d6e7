"""The queue's rings as a model: producers, consumers, two robust locks, commits, growing, giving back, repairs.

A ring has two cells: one message and the place for NEXT, so that it grows with every second message. Memory that is
not there must not be touched (SIGBUS, or content that was punched away); what is there at the end must be reachable.
"""

from __future__ import annotations

from collections.abc import Hashable

from .checker import DEAD, END, Model, Party, State

CELLS = 2
RINGS = 5
PUT, GET = "put", "get"


def cell(ring: int, base: int, position: int) -> Hashable:
    return ("cell", ring, (position - base) % CELLS)


def release_on_death(party: Party, after_word: tuple[str, ...] = ()) -> None:
    """The kernel's part of a robust lock, and whether a message went with the dead."""

    def died(m: State) -> None:
        for side in (PUT, GET):
            if m["lock", side] == party.name:
                m["lock", side] = None
                m["orphaned", side] = True
        if m["last", party.name] in after_word and m["holds", party.name] is not None:
            m.gone += 1

    party.on_death = died


def touch(m: State, ring: int) -> None:
    if not m["there", ring]:
        m.wrong = f"memory of ring {ring} is not there"


def take_lock(m: State, p: Party, side: str) -> bool:
    if m["lock", side] is not None:
        return False
    p.fence(m)
    m["lock", side] = p.name
    return True


def repair_put(m: State, mistake: str | None) -> None:
    if m["orphaned", PUT] and mistake != "put repair cuts nothing off":
        end = m["tail", m.put_word[1]][3]
        for ring in range(end, RINGS):
            give_back(m, ring)
    m["orphaned", PUT] = False


def repair_get(m: State, mistake: str | None) -> None:
    if m["orphaned", GET]:
        ring, _, position = m["head", m.get_word[1]]
        m.freed = position
        up_to = m["tail", m.put_word[1]][0] if mistake == "get repair gives back up to the tail" else ring
        for dead in range(0 if mistake != "get repair gives nothing back" else up_to, up_to):
            give_back(m, dead)
    m["orphaned", GET] = False


def give_back(m: State, ring: int) -> None:
    m["there", ring] = False
    for i in range(CELLS):
        m["cell", ring, i] = None


def producer(i: int, messages: int, mistake: str | None) -> Party:
    p = Party(f"producer{i}", "lock", mortal=True, buffered=True)
    release_on_death(p)
    mine = ("state", i)  # the state that is being made: ring, base, position, end of the file

    @p.step
    def lock(m: State) -> str | None:
        if m["sent", i] == messages:
            return END
        if not take_lock(m, p, PUT):
            return None
        return "repair" if m["orphaned", PUT] else "look"

    @p.step
    def repair(m: State) -> str:
        repair_put(m, mistake)
        return "look"

    @p.step
    def look(m: State) -> str:
        ring, base, position, end = m[mine] = m["tail", m.put_word[1]]
        used = position - max(m.freed, base)
        keep = 0 if mistake == "no place is kept for NEXT" else 1
        if mistake == "producer does not look how far the head is":
            used = 0
        if used + keep < CELLS:
            return "write"
        return "make"

    @p.step
    def make(m: State) -> str:
        m["there", m[mine][3]] = True
        return "next"

    @p.step
    def next(m: State) -> str:
        ring, base, position, end = m[mine]
        touch(m, ring)
        p.store(m, cell(ring, base, position), ("next", end), release=False)
        m[mine] = (end, position + 1, position + 1, end + 1)
        return "write"

    @p.step
    def write(m: State) -> str:
        if mistake == "word before the frame" and not m["early", i]:
            return "state"
        ring, base, position, end = m[mine]
        touch(m, ring)
        p.store(m, cell(ring, base, position), (i, m["sent", i]), release=False)
        m[mine] = (ring, base, position + 1, end)
        return "unlock" if m["early", i] else "state"

    @p.step
    def state(m: State) -> str:
        ring, base, position, end = m[mine]
        made = (ring, base, position + 1, end) if mistake == "word before the frame" else m[mine]
        slot = m.put_word[1] if mistake == "one put state only" else 1 - m.put_word[1]
        if mistake == "word before the put state" and not m["early", i]:
            m["early", i] = True
            return "word"
        p.store(m, ("tail", slot if not m["early", i] else m.put_word[1]), made, release=False)
        return "unlock" if m["early", i] else "word"

    @p.step
    def word(m: State) -> str:
        count, slot = m.put_word
        flipped = slot if mistake == "one put state only" else 1 - slot
        p.store(m, "put_word", (count + 1, flipped), release=mistake != "word is no release")
        m.committed += ((i, m["sent", i]),)
        if mistake == "word before the frame":
            m["early", i] = True
            return "write"
        return "state" if m["early", i] else "unlock"

    @p.step
    def unlock(m: State) -> str:
        p.fence(m)
        m["lock", PUT] = None
        m["sent", i] += 1
        m["early", i] = False
        return "lock"

    return p


def consumer(i: int, producers: list[str], mistake: str | None, retires: bool) -> Party:
    name = f"consumer{i}"
    p = Party(name, "lock", mortal=True, buffered=True)
    release_on_death(p, after_word=("taken",))
    mine, holds, left, last = ("state", name), ("holds", name), ("left", name), ("last", name)

    @p.step
    def lock(m: State) -> str | None:
        if m.put_word[0] == m.get_word[0] and m["lock", GET] is None and not m["orphaned", GET]:
            return END if all(m["at", name] in (DEAD, END) for name in producers) else None
        if not take_lock(m, p, GET):
            return None
        return "repair" if m["orphaned", GET] else "look"

    @p.step
    def repair(m: State) -> str:
        repair_get(m, mistake)
        return "look"

    @p.step
    def look(m: State) -> str:
        m[mine] = m["head", m.get_word[1]]
        m[left] = None
        return "copy" if m.put_word[0] > m.get_word[0] else "unlock"

    @p.step
    def copy(m: State) -> str:
        ring, base, position = m[mine]
        touch(m, ring)
        what = m[cell(ring, base, position)]
        if what is not None and what[0] == "next":
            if m[left] is None:
                m[left] = ring
            m[mine] = (what[1], position + 1, position + 1)
            return "copy"
        if mistake == "freed before the copy" and m.freed <= position:
            m.freed = position + 1
            return "copy"
        if what not in m.committed or what in m.came:
            m.wrong = f"{what} is read at position {position}"
        m[holds] = what
        m[mine] = (ring, base, position + 1)
        return "give_back" if mistake == "given back before the word" and m[left] is not None else "state"

    @p.step
    def state(m: State) -> str:
        slot = m.get_word[1] if mistake == "one get state only" else 1 - m.get_word[1]
        p.store(m, ("head", slot), m[mine], release=False)
        return "word"

    @p.step
    def word(m: State) -> str:
        count, slot = m.get_word
        flipped = slot if mistake == "one get state only" else 1 - slot
        p.store(m, "get_word", (count + 1, flipped))
        m[last] = "taken"
        return "freed"

    @p.step
    def freed(m: State) -> str:
        p.store(m, "freed", m[mine][2])
        return "give_back" if m[left] is not None else "unlock"

    @p.step
    def give_back_(m: State) -> str:
        p.fence(m)
        for ring in range(m[left], m[mine][0]):
            give_back(m, ring)
        m[left] = None
        return "unlock" if m[last] == "taken" else "state"

    p.steps["give_back"] = p.steps.pop("give_back_")

    @p.step
    def unlock(m: State) -> str:
        p.fence(m)
        m["lock", GET] = None
        return "deliver" if m[holds] is not None else "lock"

    @p.step
    def deliver(m: State) -> str:
        m.came += (m[holds],)
        m[holds] = m[last] = None
        return "retire" if retires else "lock"

    if retires:
        add_retiring(p, mistake)
    return p


def add_retiring(p: Party, mistake: str | None) -> None:
    """Giving back a ring that was left empty: a new one is committed without a message, and the head goes there."""
    mine, old, last = ("state", p.name), ("old", p.name), ("last", p.name)

    @p.step
    def retire(m: State) -> str:
        if not take_lock(m, p, GET):
            return "lock"
        m[last] = None
        repair_get(m, mistake)
        return "retire_put"

    @p.step
    def retire_put(m: State) -> str:
        if mistake == "retires without the put lock":
            return "retire_make"
        if m.put_word[0] != m.get_word[0] or not take_lock(m, p, PUT):
            return "retire_leave"
        repair_put(m, mistake)
        return "retire_make" if m.put_word[0] == m.get_word[0] else "retire_leave"

    @p.step
    def retire_make(m: State) -> str:
        ring, base, position, end = m["tail", m.put_word[1]]
        if end >= RINGS or m["retired", p.name]:
            return "retire_leave"
        m["there", end] = True
        p.store(m, cell(ring, base, position), ("next", end), release=False)
        m["retired", p.name] = True
        m[mine] = (end, position + 1, position + 1, end + 1)
        return "retire_state"

    @p.step
    def retire_state(m: State) -> str:
        p.store(m, ("tail", 1 - m.put_word[1]), m[mine], release=False)
        return "retire_word"

    @p.step
    def retire_word(m: State) -> str:
        p.store(m, "put_word", (m.put_word[0], 1 - m.put_word[1]))
        return "retire_head"

    @p.step
    def retire_head(m: State) -> str:
        m[old] = m["head", m.get_word[1]][0]
        p.store(m, ("head", 1 - m.get_word[1]), m[mine][:3], release=False)
        return "retire_move"

    @p.step
    def retire_move(m: State) -> str:
        p.store(m, "get_word", (m.get_word[0], 1 - m.get_word[1]))
        return "retire_freed"

    @p.step
    def retire_freed(m: State) -> str:
        p.store(m, "freed", m[mine][2])
        return "retire_give_back"

    @p.step
    def retire_give_back(m: State) -> str:
        p.fence(m)
        for ring in range(m[old], m[mine][0]):
            give_back(m, ring)
        return "retire_leave"

    @p.step
    def retire_leave(m: State) -> str:
        p.fence(m)
        for side in (PUT, GET):
            if m["lock", side] == p.name:
                m["lock", side] = None
        return "lock"


def heir(others: list[str], mistake: str | None) -> Party:
    """Comes when all have gone and takes both locks once, as the next user would."""
    p = Party("heir", "inherit")

    @p.step
    def inherit(m: State) -> str | None:
        if not all(m["at", name] in (DEAD, END) for name in others):
            return None
        repair_get(m, mistake)
        repair_put(m, mistake)
        return END

    return p


def build(
    producers: int = 1,
    messages: int = 2,
    consumers: int = 1,
    mistake: str | None = None,
    retires: bool = False,
    deaths: int = 1,
) -> Model:
    memory: dict[Hashable, object] = {("lock", PUT): None, ("lock", GET): None, ("orphaned", PUT): False}
    memory |= {("orphaned", GET): False, "put_word": (0, 0), "get_word": (0, 0), "freed": 0, "came": (), "gone": 0}
    memory |= {("tail", slot): (0, 0, 0, 1) for slot in (0, 1)} | {("head", slot): (0, 0, 0) for slot in (0, 1)}
    memory |= {"committed": (), "wrong": None}
    memory |= {("there", ring): ring == 0 for ring in range(RINGS + 1)}
    memory |= {("cell", ring, i): None for ring in range(RINGS + 1) for i in range(CELLS)}
    makers = [producer(i, messages, mistake) for i in range(producers)]
    takers = [consumer(i, [p.name for p in makers], mistake, retires) for i in range(consumers)]
    for i in range(producers):
        memory |= {("state", i): None, ("sent", i): 0, ("early", i): False}
    for p in [*makers, *takers]:
        memory |= {("holds", p.name): None, ("left", p.name): None, ("last", p.name): None, ("old", p.name): None}
        memory |= {("retired", p.name): False, ("state", p.name): None}
    parties = [*makers, *takers]
    parties.append(heir([p.name for p in parties], mistake))

    def bad(m: State) -> str | None:
        if m.wrong:
            return str(m.wrong)
        for i in range(producers):
            numbers = [what[1] for what in m.came if what[0] == i]
            if numbers != sorted(set(numbers)) and consumers == 1:
                return f"out of order or twice: {m.came}"
        return None

    def at_rest(m: State) -> str | None:
        if m["at", "heir"] != END:
            return "somebody waits for ever"
        if m.get_word[0] != len(m.came) + m.gone:
            return f"{m.get_word[0]} taken, {len(m.came)} came, {m.gone} gone with the dead"
        if any(m["at", p.name] == END for p in takers) and m.put_word[0] != m.get_word[0]:
            return "messages are left"
        first, last = m["head", m.get_word[1]][0], m["tail", m.put_word[1]][0]
        unreachable = [ring for ring in range(RINGS + 1) if m["there", ring] and not first <= ring <= last]
        return f"rings {unreachable} are nobody's" if unreachable else None

    return Model(parties, dict(memory), bad, at_rest, deaths)
