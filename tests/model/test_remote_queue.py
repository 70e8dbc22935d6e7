"""A put and a get over a connection that may break anywhere, by a client and a server that may die anywhere.

The protocol of ``_engine/queueing/remote``: numbers, answers that are kept, RECEIPT and YOURS, RESUME. What is in the
two channels when the connection breaks is lost; what a dead client had sent still arrives, or not. The session is given
up only when the client is dead: a client that comes back comes in time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from .checker import DEAD, END, Model, Party, State, explore
from .planted import must_be_found

PUT, GET = 1, 2


@dataclass(frozen=True)
class Scene:
    cuts: int = 2
    deaths: int = 0
    server_dies: bool = False
    mistake: str | None = None


def client(scene: Scene) -> Party:
    """Puts "new", then gets one message."""
    p = Party("client", "put", mortal=True)

    def send(m: State, *message: object) -> None:
        if m.up:
            m.to_server += (message,)

    def answer(m: State, number: int, kind: str) -> object:
        """The next frame, if it is of this kind for this number; others are stale and dropped."""
        while m.to_client:
            first, m.to_client = m.to_client[0], m.to_client[1:]
            if first[:2] == (kind, number):
                return first
        return None

    @p.step
    def put(m: State) -> str:
        send(m, "put", PUT)
        return "await_done"

    @p.step
    def await_done(m: State) -> str | None:
        if not m.up:
            return "again_put"
        if not m.to_client:
            return None
        return "get" if answer(m, PUT, "done") else "await_done"

    @p.step
    def again_put(m: State) -> str | None:
        return connect(m, "put", PUT, "await_done")

    @p.step
    def get(m: State) -> str:
        send(m, "get", GET)
        return "await_messages"

    @p.step
    def await_messages(m: State) -> str | None:
        if not m.up:
            return "again_get"
        if not m.to_client:
            return None
        frame = answer(m, GET, "messages")
        if frame is None:
            return "await_messages"
        m.in_hand = frame[2]
        if scene.mistake == "the client does not wait for YOURS":
            m.taken, m.in_hand = m.in_hand, None
        return "receipt"

    @p.step
    def again_get(m: State) -> str | None:
        return connect(m, "get", GET, "await_messages")

    @p.step
    def receipt(m: State) -> str:
        send(m, "receipt", GET)
        return END if m.taken else "await_yours"

    @p.step
    def await_yours(m: State) -> str | None:
        if not m.up:
            return "again_receipt"
        if not m.to_client:
            return None
        if answer(m, GET, "yours") is None:
            return "await_yours"
        m.taken, m.in_hand = m.in_hand, None
        return END

    @p.step
    def again_receipt(m: State) -> str | None:
        return connect(m, "receipt", GET, "await_yours")

    def connect(m: State, kind: str, number: int, following: str) -> str | None:
        if m["at", "server"] == DEAD:
            m.lost = True  # ConnectionLost
            return END
        m.up = True
        m.to_server = (("resume", number), (kind, number))
        m.to_client = ()
        return following

    return p


def server(scene: Scene) -> Party:
    p = Party("server", "serve", mortal=scene.server_dies, on_death=_cut)

    def reply(m: State, *message: object) -> None:
        if m.up:
            m.to_client += (message,)

    @p.step
    def serve(m: State) -> str | None:
        if not m.to_server:
            return None
        (kind, number), m.to_server = m.to_server[0], m.to_server[1:]
        {"put": put, "get": get, "receipt": receipt, "resume": resume}[kind](m, number)
        return "serve"

    def put(m: State, number: int) -> None:
        if not m.done:
            m.queue += ("new",)
            m.done = scene.mistake != "a put is not remembered"
        reply(m, "done", number)

    def get(m: State, number: int) -> None:
        if m.handed:
            return
        if m.held is None and m.queue:
            m.held, m.queue = m.queue[0], m.queue[1:]
        reply(m, "messages", number, m.held)
        if scene.mistake == "messages are not kept":
            m.held = None

    def receipt(m: State, number: int) -> None:
        if m.held is not None:
            m.handed, m.held = m.held, None
        reply(m, "yours", number)

    def resume(m: State, number: int) -> None:
        pass  # the one that is open is the one it is about

    @p.step
    def serve_or_give_up(m: State) -> str | None:
        """The client has been away for longer than the patience."""
        away = not m.up if scene.mistake == "the patience is none" else m["at", "client"] == DEAD and not m.to_server
        if not away or m.held is None:
            return None
        m.queue += (m.held,)
        m.held = None
        return "serve"

    return p


def _cut(m: State) -> None:
    m.up, m.to_server, m.to_client = False, (), ()


def network() -> Party:
    p = Party("network", "carry")

    @p.blow
    def carry_or_break(m: State) -> str | None:
        if m.cuts == 0 or not m.up and not m.to_server:
            return None
        m.cuts -= 1
        _cut(m)
        return "carry"

    return p


def build(scene: Scene) -> Model:
    memory = {"up": True, "to_server": (), "to_client": (), "queue": ("old",), "held": None, "handed": None}
    memory |= {"done": False, "in_hand": None, "taken": None, "lost": False, "cuts": scene.cuts}

    def whose(m: State, item: str) -> int:
        return m.queue.count(item) + (m.held == item) + (m.handed == item)

    def bad(m: State) -> str | None:
        for item in ("old", "new"):
            if whose(m, item) > 1:
                return f"{item!r} is there twice"
            if m.taken == item and (item in m.queue or m.held == item and m["at", "client"] in (DEAD, END)):
                return f"{item!r} was taken and is in the queue: doubled"
        return None

    def at_rest(m: State) -> str | None:
        if m["at", "client"] not in (DEAD, END):
            return "the client waits for ever"
        if m["at", "server"] == DEAD:
            return None if m.lost or m.taken or m["at", "client"] == DEAD else "no word of the loss"
        if m["at", "client"] == END and not m.taken:
            return "it ended with nothing"
        missing = [item for item in ("old", *(["new"] if m.done else [])) if not whose(m, item)]
        return f"{missing} lost" if missing else None

    return Model([client(scene), server(scene), network()], dict(memory), bad, at_rest, deaths=scene.deaths)


QUIET = Scene()
DEADLY = Scene(deaths=1)
BOTH = Scene(deaths=2, server_dies=True)

MISTAKES = {
    "a put is not remembered": (QUIET, "'new' is there twice"),
    "messages are not kept": (QUIET, "lost|for ever|nothing"),
    "the client does not wait for YOURS": (DEADLY, "doubled"),
    "the patience is none": (QUIET, "doubled|lost|twice"),
}


@pytest.mark.parametrize("scene", [QUIET, DEADLY, BOTH], ids=["quiet", "deadly", "both may die"])
def test_nothing_is_lost_or_doubled(scene: Scene) -> None:
    explore(build(scene))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checker_finds(mistake: str) -> None:
    scene, symptom = MISTAKES[mistake]
    must_be_found(build(replace(scene, mistake=mistake)), symptom)
