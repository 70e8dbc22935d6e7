"""The doorbell word, the collector token and the leader, as a model (checked by test_doorbell.py).

Workers publish one reply each and ring; the manager and any number of callers collect. The word says who
has to be woken and how. Whoever goes to sleep announces it, fences, and looks once more at everything it
would be woken for: the rings and, for a leader, its own target. Whoever settles fences and looks for a leader.

The lock stands for the collector token. ``epoll`` and ``futex`` are the two ways to sleep.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from .checker import END, Model, Party, State

AWAKE, MANAGER, CALLER, RINGING_MANAGER, RINGING_CALLER = range(5)
STOPPED = "stopped"
RUNG = {MANAGER: RINGING_MANAGER, CALLER: RINGING_CALLER}


@dataclass
class Scene:
    """Who takes part: *workers* with one task each; each caller waits for the task of that number.

    A *cancelled* task of a number beyond the workers stands in the waiting line: no reply ever settles it.
    """

    workers: int = 1
    callers: tuple[int, ...] = (0,)
    cancelled: int | None = None
    stops: bool = False
    interrupts: bool = False
    nested: bool = False
    deaths: int = 0
    mistake: str | None = None

    def is_(self, mistake: str) -> bool:
        return self.mistake == mistake

    @property
    def tasks(self) -> int:
        return max(self.workers, 1 + max((*self.callers, self.cancelled or 0)))

    @property
    def names(self) -> list[str]:
        return [f"caller{i}" for i in range(len(self.callers))]

    def wake_callers(self, m: State) -> None:
        for i in range(len(self.callers)):
            m["asleep", f"caller{i}"] = False


def settle(m: State, task: int, how: str) -> None:
    """First come, first served: later outcomes of a settled task are dropped."""
    if not m["settled", task]:
        m["settled", task] = how


def worker(scene: Scene, w: int) -> Party:
    def died(m: State) -> None:
        m["pidfd", w] = True

    # All workers are alike: that one may die or be stopped says it for any.
    p = Party(f"worker{w}", "publish", mortal=w == 0, buffered=True, on_death=died)

    @p.step
    def publish(m: State) -> str:
        p.store(m, ("ring", w), 1)
        return "look"

    @p.step
    def look(m: State) -> str:
        if not scene.is_("worker does not fence before it reads the word"):
            p.fence(m)
        m["saw", w] = p.load(m, "word")
        return "swap" if m["saw", w] in RUNG else "ring" if m["saw", w] else END

    @p.step
    def swap(m: State) -> str:
        saw = m["saw", w]
        rung = AWAKE if scene.is_("a ringer says awake for the sleeper") else RUNG[saw]
        if p.cas(m, "word", saw, rung):
            return "ring"
        m["saw", w] = 0
        return END if scene.is_("a ringer that was overtaken trusts the other") else "look"

    @p.step
    def ring(m: State) -> str:
        if m["saw", w] in (MANAGER, RINGING_MANAGER):
            m.event = True
        else:
            scene.wake_callers(m)
        m["saw", w] = 0
        return END

    def stop(m: State) -> str | None:
        if not scene.stops or m.stopped or w > 0:
            return None
        m.stopped = True
        return STOPPED

    for label in ("publish", "look", "swap", "ring"):
        stop.__name__ = label + "_or_stopped"
        p.blow(stop)
    return p


def collecting(p: Party, scene: Scene, then: str) -> None:
    """Steps ``drain`` … : take the token, empty each ring in turn, keep the token, go on at *then*."""

    @p.step
    def drain(m: State) -> str | None:
        if not scene.is_("collect without the token"):
            if m.lock is not None:
                return None
            m.lock = p.name
        m["look", p.name] = 0
        return "collect"

    @p.step
    def collect(m: State) -> str:
        m["found", p.name] = m["ring", m["look", p.name]]
        # Under the token nobody else empties the ring: seeing and counting may be one step.
        return "count" if scene.is_("collect without the token") else count(m)

    @p.step
    def count(m: State) -> str:
        w = m["look", p.name]
        if m["found", p.name]:
            m["ring", w] = 0
            m["counted", w] += 1
            settle(m, w, "result")
            m["did", p.name] = True
        m["found", p.name] = 0
        m["look", p.name] = w + 1
        if w + 1 < scene.workers:
            return "collect"
        m["look", p.name] = 0
        return then


def looking(p: Party, scene: Scene, name: str, something: str, nothing: str) -> None:
    """Step *name*: after the announcement look at the rings, one after the other."""

    def look(m: State) -> str:
        w = m["look", p.name]
        if w == 0 and not scene.is_("sleeper does not fence before its second look"):
            p.fence(m)
        if p.load(m, ("ring", w)):
            m["look", p.name] = 0
            return something
        m["look", p.name] = (w + 1) % scene.workers
        return nothing if w + 1 == scene.workers else name

    look.__name__ = name
    p.step(look)


def waking(p: Party, scene: Scene, then: str) -> None:
    """Steps ``wake_leader`` and ``wake``: whatever the word says, for a dead ringer may have changed it."""

    @p.step
    def wake_leader(m: State) -> str:
        by_us = p.cas(m, "word", CALLER, AWAKE)
        return "wake" if by_us or not scene.is_("leader is woken only when the word says so") else then

    @p.step
    def wake(m: State) -> str:
        scene.wake_callers(m)
        return then


def manager(scene: Scene) -> Party:
    p = Party("manager", "drain", buffered=True)
    collecting(p, scene, "bury")
    looking(p, scene, "look_again", "found_some", "epoll")
    waking(p, scene, "epoll")

    @p.step
    def bury(m: State) -> str:
        """After the rings of the dead are empty their unanswered tasks are lost."""
        for w in range(scene.workers):
            if m["known dead", w] and not m["buried", w]:
                m["buried", w] = True
                if not m["settled", w]:
                    settle(m, w, "lost")
                m["did", "manager"] = True
        return "announce"

    @p.step
    def announce(m: State) -> str:
        led = m.leader is not None
        if not led:
            p.store(m, "word", MANAGER)
        p.store(m, "lock", None)
        wake = led and m["did", "manager"]
        m["did", "manager"] = False
        if wake and not scene.is_("manager does not wake the leader"):
            return "wake_leader"
        if led or scene.is_("manager sleeps without a second look"):
            return "epoll"
        return "look_again"

    @p.step
    def found_some(m: State) -> str:
        if scene.is_("manager resets a word it did not set"):
            p.store(m, "word", AWAKE)
        else:
            p.cas(m, "word", MANAGER, AWAKE)
        return "drain"

    @p.step
    def epoll(m: State) -> str | None:
        p.fence(m)
        dead = [w for w in range(scene.workers) if m["pidfd", w] and not m["known dead", w]]
        if scene.is_("the pidfd is not watched"):
            dead = []
        if not m.event and not dead:
            return None
        m.event = False
        for w in dead:
            m["known dead", w] = True
        return "woken"

    @p.step
    def woken(m: State) -> str:
        if not p.cas(m, "word", MANAGER, AWAKE):
            p.cas(m, "word", RINGING_MANAGER, AWAKE)
        return "drain"

    return p


def caller(scene: Scene, i: int) -> Party:
    p = Party(f"caller{i}", "begin", buffered=True)
    me, target = p.name, scene.callers[i]
    collecting(p, scene, "release")
    looking(p, scene, "look_again", "forget", "futex")
    looking(p, scene, "look_after", "hand_on", "gone")

    @p.step
    def begin(m: State) -> str | None:
        if m["settled", target]:
            return END
        if m.lock is not None:
            return None
        if m.leader is not None and not scene.is_("two leaders"):
            return "condition"
        m.leader = me
        if not scene.is_("two leaders"):
            p.store(m, "word", AWAKE)  # under the token: the manager need not be rung while we are awake
        p.fence(m)
        return "drain"

    @p.step
    def condition(m: State) -> str | None:
        return END if m["settled", target] else None

    @p.step
    def release(m: State) -> str:
        p.store(m, "lock", None)
        p.fence(m)
        m["did", me] = False
        return "leave" if m["settled", target] else "announce"

    @p.step
    def announce(m: State) -> str:
        p.store(m, "word", CALLER)
        return "futex" if scene.is_("leader sleeps without a second look") else "look_at_target"

    @p.step
    def look_at_target(m: State) -> str:
        if not scene.is_("sleeper does not fence before its second look"):
            p.fence(m)
        if m["settled", target] and not scene.is_("leader's second look leaves out its target"):
            return "forget"
        return "look_again"

    @p.step
    def forget(m: State) -> str:
        p.store(m, "word", AWAKE)
        p.fence(m)
        return "drain"

    @p.step
    def futex(m: State) -> str:
        if p.load(m, "word") != CALLER:
            return "up"
        p.fence(m)
        m["asleep", me] = True
        return "sleeping"

    @p.step
    def sleeping(m: State) -> str | None:
        return None if m["asleep", me] else "up"

    @p.step
    def up(m: State) -> str:
        p.store(m, "word", AWAKE)
        p.fence(m)
        return "drain"

    @p.blow
    def sleeping_or_interrupted(m: State) -> str | None:
        if not scene.interrupts or m.interrupted:
            return None
        m.interrupted = True
        m["asleep", me] = False
        if scene.nested and scene.is_("a signal handler runs while its thread leads"):
            return "begin"
        return "leave"

    @p.step
    def leave(m: State) -> str | None:
        if m.lock is not None:
            return None
        m.lock = me
        m.leader = None
        if not scene.is_("leader leaves the word to nobody"):
            p.store(m, "word", MANAGER)
        p.store(m, "lock", None)
        return "gone" if scene.is_("leader leaves without a last look") else "look_after"

    @p.step
    def hand_on(m: State) -> str:
        m.event = True  # whatever the word says: a ringer may be stopped between its swap and its ring
        return "gone"

    @p.step
    def gone(m: State) -> str:
        """Interrupted: a handler may wait again (nested); else the wait is over."""
        p.fence(m)
        return "begin" if scene.nested and not m["settled", target] else END

    return p


def canceller(scene: Scene, task: int) -> Party:
    """Another thread that cancels a waiting task: it settles, so it must wake the leader."""
    p = Party("canceller", "cancel", buffered=True)

    @p.step
    def cancel(m: State) -> str | None:
        if m.lock is not None:
            return None
        if m["settled", task]:
            return END
        m.lock = "canceller"
        settle(m, task, "cancelled")
        return "release"

    @p.step
    def release(m: State) -> str:
        led = m.leader is not None
        p.store(m, "lock", None)
        p.fence(m)
        return "wake_leader" if led and not scene.is_("canceller does not wake the leader") else END

    waking(p, scene, END)
    return p


def build(scene: Scene) -> Model:
    workers = range(scene.workers)
    memory: dict[Hashable, object] = {"word": AWAKE, "lock": None, "leader": None, "event": False}
    memory |= {"stopped": False, "interrupted": False}
    memory |= {("settled", task): None for task in range(scene.tasks)}
    for w in workers:
        memory |= {("ring", w): 0, ("saw", w): 0, ("counted", w): 0}
        memory |= {("pidfd", w): False, ("known dead", w): False, ("buried", w): False}
    for name in ["manager", *scene.names]:
        memory |= {("look", name): 0, ("found", name): 0, ("did", name): False, ("asleep", name): False}
    parties = [worker(scene, w) for w in workers] + [manager(scene)]
    parties += [caller(scene, i) for i in range(len(scene.callers))]
    if scene.cancelled is not None:
        parties.append(canceller(scene, scene.cancelled))

    def bad(m: State) -> str | None:
        for w in workers:
            if m["counted", w] > 1:
                return f"the reply of worker {w} was counted twice"
        return None

    def at_rest(m: State) -> str | None:
        for w in workers:
            held_up = m["at", f"worker{w}"] == STOPPED
            if m["ring", w] and not held_up:
                return f"the reply of worker {w} lies in its ring"
            if not m["settled", w] and not held_up:
                return f"task {w} is not settled"
            if m["settled", w] == "lost" and m["counted", w]:
                return f"task {w} was lost although its reply was published"
        for name, target in zip(scene.names, scene.callers, strict=True):
            if m["at", name] != END and m["settled", target]:
                return f"{name} still waits for a settled task"
            if m["at", name] != END and m.get(("at", f"worker{target}")) != STOPPED:
                return f"{name} still waits"
        return None

    return Model(parties, dict(memory), bad, at_rest, deaths=scene.deaths)
