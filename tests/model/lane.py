"""One worker's lane with take-back, condemnation and death, as a model (test_take_back.py, test_condemn.py).

The parent feeds tasks into a ring of two slots, collects replies, and at any moment may take back what has
not started or condemn what runs. The worker may be killed between any two steps. Each task must be started
at most once and settled exactly once, a committed reply always counts, and without an accident from outside
no task is ever lost.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from .checker import DEAD, Model, Party, State

SLOTS = 2


@dataclass(frozen=True)
class Scene:
    """*take_backs* and *condemns*: how often the user may make the parent do that."""

    tasks: int = 3
    take_backs: int = 0
    condemns: int = 0
    deaths: int = 0
    mistake: str | None = None

    def is_(self, mistake: str) -> bool:
        return self.mistake == mistake

    def word(self, seq: int, state: str) -> tuple[int, str]:
        return (0, state) if self.is_("no number in the state word") else (seq, state)


def start(m: State, task: int) -> None:
    m["starts", task] += 1


def settle(m: State, task: int, how: str) -> None:
    """The first outcome stands; what comes later is dropped."""
    if m["settled", task] is None:
        m["settled", task] = how


def worker(scene: Scene) -> Party:
    def died(m: State) -> None:
        m.pidfd = True

    p = Party("worker", "take", mortal=True, on_death=died)
    late = scene.is_("the mark comes after the start")

    def here(m: State) -> tuple[Hashable, ...]:
        return ("state", m.tail % SLOTS)

    @p.step
    def take(m: State) -> str | None:
        if p.cas(m, here(m), scene.word(m.tail, "ready"), scene.word(m.tail, "ready" if late else "taken")):
            return "run"
        if m[here(m)] == scene.word(m.tail, "revoked"):
            return "release"
        return None

    @p.step
    def run(m: State) -> str:
        start(m, m["task", m.tail % SLOTS])
        if late:
            return "mark"
        return "finish" if scene.is_("done before the reply is published") else "reply"

    @p.step
    def mark(m: State) -> str:
        m[here(m)] = scene.word(m.tail, "taken")
        return "reply"

    @p.step
    def reply(m: State) -> str:
        task = m["task", m.tail % SLOTS]
        m.replies += (task,)
        m["replied", task] = True
        return "release" if scene.is_("done before the reply is published") else "finish"

    @p.step
    def finish(m: State) -> str:
        done = p.cas(m, here(m), scene.word(m.tail, "taken"), scene.word(m.tail, "done"))
        if not done and not scene.is_("a condemned worker goes on"):
            return "wait_to_be_killed"
        return "reply" if scene.is_("done before the reply is published") else "release"

    @p.step
    def release(m: State) -> str:
        m.tail += 1
        return "take"

    return p


def push(m: State, scene: Scene, task: int) -> None:
    m["task", m.head % SLOTS] = task
    m["state", m.head % SLOTS] = scene.word(m.head, "ready")
    m.sent += (task,)
    m.head += 1


def elsewhere(m: State, task: int) -> None:
    """The task is ours again: another worker runs it to its end."""
    start(m, task)
    settle(m, task, "result")


def parent(scene: Scene, doomed: Party) -> Party:
    p = Party("parent", "attend")

    @p.step
    def attend(m: State) -> str | None:
        """Feed one task; one commit of the state word makes it visible."""
        if m.line == () or m.head - m.tail >= SLOTS or m.buried or m.condemned is not None:
            return None
        push(m, scene, m.line[0])
        m.line = m.line[1:]
        return "attend"

    @p.step
    def attend_or_collect(m: State) -> str | None:
        if not m.replies:
            return None
        settle(m, m.replies[0], "result")
        m.replies = m.replies[1:]
        return "attend"

    @p.step
    def attend_or_bury(m: State) -> str | None:
        """The worker is dead. Its published replies count, so they come first."""
        if not m.pidfd or m.buried:
            return None
        if m.replies and not scene.is_("the dead are buried before their replies are read"):
            return None
        m.buried = True
        m.at_seq = m.tail
        return "bury"

    @p.step
    def bury(m: State) -> str:
        if m.at_seq == m.head:
            for task in m.line:
                elsewhere(m, task)
            m.line = ()
            return "attend"
        task, word = m.sent[m.at_seq], m["state", m.at_seq % SLOTS]
        if word == scene.word(m.at_seq, "ready"):
            elsewhere(m, task)
        elif word in (scene.word(m.at_seq, "taken"), scene.word(m.at_seq, "condemned")):
            if scene.is_("what a dead worker had started runs again"):
                elsewhere(m, task)
            how = "cancelled" if m.condemned == task else "lost"
            m.lost = m.lost or (how == "lost" and m["settled", task] is None)
            settle(m, task, how)
        m.at_seq += 1
        return "bury"

    taking_back(p, scene)
    condemning(p, scene, doomed)
    return p


def taking_back(p: Party, scene: Scene) -> None:
    @p.blow
    def attend_or_take_back(m: State) -> str | None:
        if m.take_backs == scene.take_backs or m.buried:
            return None
        m.take_backs += 1
        m.at_seq = m.head
        return "revoke"

    @p.step
    def revoke(m: State) -> str:
        """From the newest backwards, until one has been started."""
        seq = m.at_seq - 1
        if seq < 0 or seq < m.head - SLOTS:
            return "attend"
        place = ("state", seq % SLOTS)
        if scene.is_("take-back looks, then stores"):
            m.at_seq = seq
            return "revoke_late" if m[place] == scene.word(seq, "ready") else "attend"
        if not p.cas(m, place, scene.word(seq, "ready"), scene.word(seq, "revoked")):
            return "attend"
        elsewhere(m, m.sent[seq])
        m.at_seq = seq
        return "revoke"

    @p.step
    def revoke_late(m: State) -> str:
        m["state", m.at_seq % SLOTS] = scene.word(m.at_seq, "revoked")
        elsewhere(m, m.sent[m.at_seq])
        return "revoke"


def condemning(p: Party, scene: Scene, doomed: Party) -> None:
    """The user cancels a running task: the parent wants its worker killed, and nobody else harmed."""

    @p.blow
    def attend_or_condemn(m: State) -> str | None:
        if m.condemns == scene.condemns or m.buried or m.head == 0 or m.condemned is not None:
            return None
        # The oldest task without an outcome may be running.
        open_tasks = [s for s, task in enumerate(m.sent) if m["settled", task] is None]
        if not open_tasks:
            return None
        m.condemns += 1
        m.at_seq = open_tasks[0]
        return "condemn"

    @p.step
    def condemn(m: State) -> str:
        seq, place = m.at_seq, ("state", m.at_seq % SLOTS)
        if scene.is_("kill without condemning"):
            running = m[place] == scene.word(seq, "taken")
        else:
            running = p.cas(m, place, scene.word(seq, "taken"), scene.word(seq, "condemned"))
        if not running:
            return "attend"
        m.condemned = m.sent[seq]
        if scene.is_("the outcome of a condemned task is left open"):
            m["told", m.condemned] = "cancelled"
        else:
            settle(m, m.condemned, "cancelled")
            m["told", m.condemned] = m["settled", m.condemned]
        return "kill"

    @p.step
    def kill(m: State) -> str:
        if m[doomed.at] != DEAD:
            m[doomed.at] = DEAD
            m.pidfd = True
        return "attend"


def build(scene: Scene) -> Model:
    memory: dict[Hashable, object] = {"head": 0, "tail": 0, "line": tuple(range(scene.tasks)), "sent": ()}
    memory |= {"replies": (), "pidfd": False, "buried": False, "at_seq": 0, "take_backs": 0, "condemns": 0}
    memory |= {"condemned": None, "lost": False}
    memory |= {("state", s): (0, "empty") for s in range(SLOTS)} | {("task", s): None for s in range(SLOTS)}
    for task in range(scene.tasks):
        memory |= {("starts", task): 0, ("settled", task): None, ("replied", task): False, ("told", task): None}
    w = worker(scene)

    def bad(m: State) -> str | None:
        if m.tail > m.head:
            return "the worker ran past what was sent"
        for task in range(scene.tasks):
            how, told = m["settled", task], m["told", task]
            if m["starts", task] > 1:
                return f"task {task} was started twice"
            if how == "lost" and m["replied", task]:
                return f"task {task} is lost although its reply was committed"
            if told and how and told != how:
                return f"task {task} was said to be {told} and is {how}"
        if m.lost and not m.deaths:
            return "an innocent task was lost"
        return None

    def at_rest(m: State) -> str | None:
        for task in range(scene.tasks):
            if m["settled", task] is None:
                return f"task {task} is never settled"
        return None

    return Model([w, parent(scene, w)], dict(memory), bad, at_rest, scene.deaths)
