"""One cell of an arena of shared objects (SHARED.md): its maker takes it back and hands it out anew, while handles to
it are read, users fork and die, the dead are buried and others join in their place.

A record is used by whom its *holders* are: those who have the open file description whose lock on the record's byte
tells that somebody lives. The descriptions of the dead close with them.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from .checker import DEAD, END, Model, Party, State

MAKER, FIRST, SECOND = 0, 1, 2  # the records
FREE, USED = "free", "used"
SWEEPS = 2
OLD, NEW = 1, 3  # the generations in which the cell is in use


@dataclass(frozen=True)
class Scene:
    """Who takes part, and with which mistake."""

    readers: tuple[str, ...] = ()  # "first" has the handle that counts, "again" reads it once more
    joins: str | None = None  # a reader that is no member yet: "dead" takes a dead one's record, "fresh" a new one
    forks: str | None = None  # a user that forks: "own" record for the child, "lent"
    passes_on: bool = False  # the first reader sends a handle of its own to a receiver
    claims: int = 1
    deaths: int = 1
    mistake: str | None = None


def hold(m: State, record: int, name: str) -> None:
    m["holders", record] = (*m["holders", record], name)


def let_go(m: State, name: str) -> None:
    for record in (MAKER, FIRST, SECOND):
        m["holders", record] = tuple(one for one in m["holders", record] if one != name)


def add_dropping(p: Party, mistake: str | None = None) -> None:
    @p.step
    def use(m: State) -> str:
        return "drop"

    @p.step
    def drop(m: State) -> str:
        m["using", p.name] = None
        return "leave"

    @p.step
    def leave(m: State) -> str:
        record = m["record", p.name]
        if record not in m.lent or mistake == "a lent membership ends":
            m["bit", record] = False
        return END


def add_reading(p: Party, mistake: str | None, handle: str = "the makers") -> None:
    """A handle arrives at a member."""
    early_look = mistake == "the look before the bit"

    @p.step
    def arrive(m: State) -> str | None:
        return "look" if early_look else "claim_first" if mistake == "the claim before the bit" else "bit"

    @p.step
    def claim_first(m: State) -> str:
        generation, claims = m.word
        if generation == OLD and claims:
            m.word = (generation, claims - 1)
        return "bit"

    @p.step
    def bit(m: State) -> str:
        m["bit", m["record", p.name]] = True
        return "look" if not early_look else "settle"

    @p.step
    def look(m: State) -> str:
        if m.word[0] != OLD:
            m.refused_first = handle not in m.arrived
            return "leave"
        m.arrived |= {handle}
        m["using", p.name] = OLD
        return "bit" if early_look else "settle"

    @p.step
    def settle(m: State) -> str:
        m["word", p.name] = m.word
        generation, claims = m.word
        return "settle_swap" if generation == OLD and claims else "use"

    @p.step
    def settle_swap(m: State) -> str:
        if m.word != m["word", p.name]:
            return "settle"
        m.word = (m.word[0], m.word[1] - 1)
        return "use"


def reader(name: str, record: int, scene: Scene) -> Party:
    p = Party(name, "arrive", mortal=True, on_death=lambda m: let_go(m, name))
    add_reading(p, scene.mistake)
    add_dropping(p)
    if scene.passes_on:
        p.steps["use"] = [passing]
    return p


def passing(m: State) -> str:
    """The user of a cell sends a handle on."""
    generation, claims = m.word
    m.word = (generation, claims + 1)
    m.passed = True
    return "drop"


def receiver(record: int, mistake: str | None) -> Party:
    """Reads the handle that was sent on."""
    p = Party("receiver", "wait", mortal=True, on_death=lambda m: let_go(m, "receiver"))

    @p.step
    def wait(m: State) -> str | None:
        if m.passed:
            return "arrive"
        return END if m["at", "first"] in (DEAD, END) else None

    add_reading(p, mistake, "anothers")
    add_dropping(p)
    return p


def joiner(record: int, mistake: str | None) -> Party:
    name = "joiner"
    p = Party(name, "lock", mortal=True, on_death=lambda m: let_go(m, name))

    @p.step
    def lock(m: State) -> str | None:
        if m["holders", record]:
            return None  # while it is being buried; the real one looks at the next record
        hold(m, record, name)
        return "wipe"

    @p.step
    def wipe(m: State) -> str:
        m["bit", record] = False
        return "state"

    @p.step
    def state(m: State) -> str:
        m["state", record] = USED
        return "arrive" if mistake == "members are counted late" else "high"

    @p.step
    def high(m: State) -> str:
        m.high = max(m.high, record + 1)
        return "arrive"

    add_reading(p, mistake)
    add_dropping(p)
    return p


def forker(scene: Scene) -> tuple[Party, Party]:
    name = "parent"
    p = Party(name, "before", mortal=True, on_death=lambda m: let_go(m, name))
    c = Party("child", "unborn", mortal=True, on_death=lambda m: let_go(m, "child"))
    own = scene.forks == "own"

    @p.step
    def before(m: State) -> str:
        if not own:
            m.lent = (FIRST,)
            return "fork"
        if scene.mistake == "the child joins after the fork":
            return "fork"
        hold(m, SECOND, name)
        return "double_state"

    @p.step
    def double_state(m: State) -> str:
        m["state", SECOND] = USED
        m.high = max(m.high, SECOND + 1)
        return "double_bits"

    @p.step
    def double_bits(m: State) -> str:
        if scene.mistake != "the bits are not copied":
            m["bit", SECOND] = m["bit", FIRST]
        return "fork"

    @p.step
    def fork(m: State) -> str:
        m.forked = True
        m["using", "child"] = m["using", name]
        if own and name in m["holders", SECOND]:
            hold(m, SECOND, "child")
        hold(m, FIRST, "child")
        return "close"

    @p.step
    def close(m: State) -> str:
        m["holders", SECOND] = tuple(one for one in m["holders", SECOND] if one != name)
        return "use"

    add_dropping(p, scene.mistake)

    @c.step
    def unborn(m: State) -> str | None:
        if m.forked:
            return "close_parents" if own else "use"
        return END if m["at", name] in (DEAD, END) else None

    @c.step
    def close_parents(m: State) -> str:
        m["holders", FIRST] = tuple(one for one in m["holders", FIRST] if one != "child")
        return "late_join" if scene.mistake == "the child joins after the fork" else "use"

    @c.step
    def late_join(m: State) -> str:
        hold(m, SECOND, "child")
        m["state", SECOND] = USED
        m.high = max(m.high, SECOND + 1)
        m["bit", SECOND] = True
        return "use"

    add_dropping(c, scene.mistake)
    return p, c


def maker(mistake: str | None) -> Party:
    """Lets the cell go, buries the dead, takes the cell back if it can, and hands it out anew."""
    p = Party("maker", "begin")

    @p.step
    def begin(m: State) -> str:
        return "drop"

    @p.step
    def drop(m: State) -> str:
        m["using", "maker"] = None
        return "leave"

    @p.step
    def leave(m: State) -> str:
        m["bit", MAKER] = False
        return "sweep"

    @p.step
    def sweep(m: State) -> str:
        if m.sweeps == SWEEPS:
            return END
        m.sweeps += 1
        m.looked_at = FIRST
        return "bury"

    @p.step
    def bury(m: State) -> str:
        record = m.looked_at
        if record >= m.high:
            return "word"
        if m["state", record] != USED or (m["holders", record] and mistake != "the living are buried"):
            return "bury_next"
        if mistake != "no lock on the grave":
            hold(m, record, "maker")
        return "bury_look"

    @p.step
    def bury_look(m: State) -> str:
        return "bury_wipe" if m["state", m.looked_at] == USED else "bury_unlock"

    @p.step
    def bury_wipe(m: State) -> str:
        m["bit", m.looked_at] = False
        return "bury_free"

    @p.step
    def bury_free(m: State) -> str:
        m["state", m.looked_at] = FREE
        return "bury_unlock"

    @p.step
    def bury_unlock(m: State) -> str:
        record = m.looked_at
        m["holders", record] = tuple(one for one in m["holders", record] if one != "maker")
        return "bury_next"

    @p.step
    def bury_next(m: State) -> str:
        m.looked_at += 1
        return "bury"

    @p.step
    def word(m: State) -> str:
        if mistake == "the bits before the word":
            m.looked_at = MAKER
            return "scan"
        return "read_word"

    @p.step
    def read_word(m: State) -> str:
        m["word", "maker"] = m.word
        generation, claims = m.word
        if not generation & 1 or (claims and mistake != "claims do not count"):
            return "sweep"
        m.looked_at = MAKER
        return "swap" if mistake == "the bits before the word" else "scan"

    @p.step
    def scan(m: State) -> str:
        record = m.looked_at
        if record >= m.high:
            return "read_word" if mistake == "the bits before the word" else "swap"
        if m["state", record] != USED:
            m.looked_at += 1
            return "scan"
        return "scan_bit"

    @p.step
    def scan_bit(m: State) -> str:
        if m["bit", m.looked_at]:
            return "sweep"
        m.looked_at += 1
        return "scan"

    @p.step
    def swap(m: State) -> str:
        if m.word != m["word", "maker"]:
            return "sweep"
        m.word = (m.word[0] + 1, 0)
        m.looked_at = MAKER
        return "hand_out" if mistake == "one look at the bits" else "scan_again"

    @p.step
    def scan_again(m: State) -> str:
        record = m.looked_at
        if record >= m.high:
            return "hand_out"
        if m["state", record] == USED and m["bit", record]:
            return "put_back"
        m.looked_at += 1
        return "scan_again"

    @p.step
    def put_back(m: State) -> str:
        if m.word == (m["word", "maker"][0] + 1, 0):
            m.word = m["word", "maker"]
        return "sweep"

    @p.step
    def hand_out(m: State) -> str:
        m.content = NEW
        m["bit", MAKER] = True
        return "new_word"

    @p.step
    def new_word(m: State) -> str:
        m.word = (NEW, 0)
        m["using", "maker"] = NEW
        return END

    return p


def build(scene: Scene) -> Model:
    memory: dict[Hashable, object] = {
        "word": (OLD, scene.claims),
        "content": OLD,
        "high": 1,
        "lent": (),
        "forked": False,
    }
    memory |= {"passed": False, "arrived": frozenset(), "refused_first": False}
    memory |= {"sweeps": 0, "looked_at": 0, ("word", "maker"): None}
    for record in (MAKER, FIRST, SECOND):
        memory |= {("state", record): FREE, ("bit", record): False, ("holders", record): ()}
    memory |= {("state", MAKER): USED, ("bit", MAKER): True, ("holders", MAKER): ("maker",), ("using", "maker"): OLD}
    parties = [maker(scene.mistake)]

    def member(name: str, record: int, *, lives: bool = True, uses: bool = False) -> None:
        memory.update({("state", record): USED, ("bit", record): uses, ("holders", record): (name,) if lives else ()})
        memory["high"] = max(int(str(memory["high"])), record + 1)

    def party(p: Party, record: int, using: int | None = None) -> None:
        memory.update({("record", p.name): record, ("using", p.name): using, ("word", p.name): None})
        parties.append(p)

    for record, name in enumerate(scene.readers, FIRST):
        member(name, record)
        party(reader(name, record, scene), record)
    if scene.passes_on:
        member("receiver", SECOND)
        party(receiver(SECOND, scene.mistake), SECOND)
    if scene.joins == "dead":
        member("somebody", SECOND, lives=False, uses=True)
    if scene.joins:
        party(joiner(SECOND, scene.mistake), SECOND)
    if scene.forks:
        member("parent", FIRST, uses=True)
        parent, child = forker(scene)
        party(parent, FIRST, OLD)
        party(child, SECOND if scene.forks == "own" else FIRST)

    def bad(m: State) -> str | None:
        if m.refused_first:
            return "a handle on its way was refused, and nobody had read it before"
        for p in parties:
            if m["using", p.name] not in (None, m.content) and m["at", p.name] != DEAD:
                return f"the {p.name} uses the cell, and it holds somebody else's content"
        return None

    def at_rest(m: State) -> str | None:
        waiting = [p.name for p in parties if m["at", p.name] not in (DEAD, END)]
        if waiting:
            return f"{waiting} wait for ever"
        if m.content == NEW or m.deaths or m.lent:
            return None
        held = [r for r in (FIRST, SECOND) if m["bit", r] and m["state", r] == USED and m["holders", r]]
        if held:
            return "a member that lives keeps the cell and does not use it"
        return None if m.word == (OLD, 0) or scene.claims > 1 else f"nobody uses the cell, and its word is {m.word}"

    return Model(parties, memory, bad, at_rest, scene.deaths)
