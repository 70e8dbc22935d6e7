"""Queues between machines: the other side is there and says nothing, and messages that are too large to be careless."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from queue_kinds import HANG_SECONDS, Call
from queue_peer import KEY, Peer

from multitask import ConnectionLost, Queue
from multitask._engine.queueing.remote import desk as desk_module
from multitask._engine.queueing.remote import frames, sockets

BEAT, SILENCE, PATIENCE = 0.1, 0.4, 0.5
MIB = 1 << 20


@pytest.fixture
def impatient(monkeypatch):
    """Beats and silences of a test's length, here; STOPPED sets the same there."""
    monkeypatch.setattr(sockets, "BEAT_SECONDS", BEAT)
    monkeypatch.setattr(sockets, "SILENCE_SECONDS", SILENCE)


STOPPED = f"""
import sys
from multitask import Queue
from multitask._engine.queueing.remote import sockets
sockets.BEAT_SECONDS, sockets.SILENCE_SECONDS = {BEAT}, {SILENCE}
if len(sys.argv) > 1:
    q = Queue.connect((sys.argv[1], int(sys.argv[2])), authkey="{KEY.decode()}")
    print("ready", flush=True)
    print(q.get(), flush=True)
else:
    q = Queue()
    server = q.serve(authkey="{KEY.decode()}")
    print(*server.address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def interpreter():
    """Starts STOPPED; ends what it has started."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-c", STOPPED, *map(str, arguments)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def stop(process):
    """SIGSTOP, and wait until all its threads have."""
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task")
    while any((task / "stat").read_text().rpartition(")")[2].split()[0] != "T" for task in tasks.iterdir()):
        time.sleep(0.001)


@pytest.mark.parametrize("call", ["get", "put", "a large put", "qsize", "get_many"])
def test_a_server_that_is_stopped_is_noticed(interpreter, impatient, call):
    server = interpreter()
    host, port = server.stdout.readline().split()
    client = Queue.connect((host, int(port)), authkey=KEY, timeout=PATIENCE)
    calls = {"get": client.get, "qsize": client.qsize, "get_many": client.get_many}
    calls |= {"put": lambda: client.put(1), "a large put": lambda: client.put(bytes(100 * MIB))}
    stop(server)
    begun = time.monotonic()
    with pytest.raises(ConnectionLost):
        calls[call]()
    # The silence, what is left of its last beat, and the patience; the rest is the machine's.
    assert time.monotonic() - begun < SILENCE + 2 * BEAT + PATIENCE + 5
    server.send_signal(signal.SIGCONT)
    assert client.qsize() in (0, 1)  # and here it is again; whether the put was done is not known
    client.disconnect()


def test_a_stop_that_is_short_is_no_loss(interpreter, impatient):
    server = interpreter()
    host, port = server.stdout.readline().split()
    client = Queue.connect((host, int(port)), authkey=KEY, timeout=HANG_SECONDS)
    waiting = Call(client.get).asleep()
    for _ in range(3):
        stop(server)
        lost = client._line._sock
        while client._line._sock is lost:  # until the line is given up
            time.sleep(0.01)
        server.send_signal(signal.SIGCONT)
        assert client.qsize() == 0
    client.put("there")
    assert waiting.result() == "there"
    client.disconnect()


def test_what_a_stopped_client_had_not_confirmed_goes_back(interpreter, impatient):
    q = Queue()
    with q.serve(authkey=KEY) as server:
        server.patience = PATIENCE
        client = interpreter(*server.address)
        assert client.stdout.readline() == "ready\n"
        while not q._waiting()[0]:
            time.sleep(0.01)
        stop(client)
        q.put("message")
        begun = time.monotonic()
        while q.qsize():  # it is on its way to somebody who does not read
            time.sleep(0.01)
        assert q.get(timeout=HANG_SECONDS) == "message"
        assert time.monotonic() - begun < SILENCE + 2 * BEAT + PATIENCE + 5


def test_who_is_only_idle_is_not_hung_up_on(impatient):
    q = Queue(shared=False)
    with q.serve(authkey=KEY) as server, Queue.connect(server.address, authkey=KEY) as client:
        client.qsize()
        (connection,) = server.connections
        waiting = Call(client.get).asleep()
        heard = connection.stream.heard
        while connection.stream.heard < heard + 4 * SILENCE:  # beats, and nothing else
            time.sleep(0.01)
        assert server.connections == {connection}
        q.put("at last")
        assert waiting.result() == "at last"


class Proxy:
    """Forwards bytes between a client and a server, and swallows them while ``open`` is not set."""

    def __init__(self, address):
        self.address = address
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.open = threading.Event()
        self.open.set()
        self.socks = []
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.address)
            self.socks += [near, far]
            for one, other in ((near, far), (far, near)):
                thread = threading.Thread(target=self._forward, args=(one, other))
                self.threads.append(thread)
                thread.start()

    def _forward(self, one, other):
        try:
            while data := one.recv(1 << 16):
                if self.open.is_set():  # else they are gone, and neither side hears of it
                    other.sendall(data)
        except OSError:
            pass
        for sock in (one, other):
            if self.open.is_set():
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def cut(self):
        """From now on nothing arrives, in either direction, on the connections there are: not even a FIN."""
        self.open.clear()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self.socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self.threads:
            thread.join()
        for sock in self.socks:
            sock.close()


@pytest.fixture
def through(impatient):
    """A queue, and a client that reaches it through a proxy."""
    q = Queue(shared=False)
    with q.serve(authkey=KEY) as server:
        server.patience = 30
        proxy = Proxy(server.address)
        client = Queue.connect(proxy.listener.getsockname(), authkey=KEY, timeout=30)
        yield q, server, proxy, client
        client.disconnect()
        proxy.close()


def test_a_network_that_swallows_everything_loses_nothing_and_doubles_nothing(through):
    q, server, proxy, client = through
    client.qsize()
    for number in range(5):
        waiting = Call(client.get).asleep()
        (before,) = server.connections
        proxy.cut()
        q.put(number)  # its answer is swallowed
        while server.connections == {before}:
            time.sleep(0.01)
        while client._line._sock is not None:
            time.sleep(0.01)
        proxy.open.set()
        assert waiting.result() == number
        proxy.cut()
        putting = Call(client.put, -number)
        while client._line._sock is not None:
            time.sleep(0.01)
        proxy.open.set()
        putting.result()
        assert q.get(timeout=HANG_SECONDS) == -number
    assert q.qsize() == client.qsize() == 0
    assert q.put_count == 10


# --- sizes ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["bytes", "objects"])
def served(request):
    q = Queue(shared=request.param == "bytes")
    with q.serve(authkey=KEY) as server, Queue.connect(server.address, authkey=KEY) as client:
        given = [q, server, client]
        yield given
        given.clear()  # pytest holds on to what a fixture gave until all others are through
        del q


def test_an_answer_to_get_many_is_bounded_by_bytes(served):
    q, server, client = served
    size, count = MIB // 2, 100
    q.put_many([bytes([n]) * size for n in range(count)])
    server.patience = 0.01
    with Peer(server.address) as peer:
        peer.get(1, most=1 << 60)
        kind, _, content = peer.receive()
        assert kind == frames.MESSAGES
        assert frames.MOST_BYTES // 2 <= len(content) <= frames.MOST_BYTES + desk_module.FEW * (size + 100)
        taken = len(frames.unpack_items(content))
    while q.qsize() != count:  # what the peer never confirmed is back
        assert q.qsize() >= count - taken
        time.sleep(0.01)
    got = client.get_many()
    assert sorted(item[0] for item in got) == list(range(count)) and {len(item) for item in got} == {size}


def test_get_many_gets_all_that_is_there_in_as_many_answers_as_it_takes(served):
    q, _, client = served
    count = frames.MOST_MESSAGES * 2 + 5
    q.put_many(range(count))
    assert client.get_many() == list(range(count))
    q.put_many(range(count))
    assert client.get_many(frames.MOST_MESSAGES + 1) == list(range(frames.MOST_MESSAGES + 1))
    assert client.qsize() == count - frames.MOST_MESSAGES - 1


def test_small_messages_before_large_ones(served):
    q, _, client = served
    items = [b"s"] * 1000 + [bytes(3 * MIB)] * 10 + [b"s"] * 1000
    q.put_many(items)
    assert client.get_many() == items


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, MIB - 1, MIB + 1, 50 * MIB])
def test_every_size_comes_through_as_it_was(served, size):
    _, _, client = served
    item = os.urandom(min(size, 1 << 20)) * (size // (1 << 20) + 1)
    for each in (item[:size], bytearray(item[:size]), item[:size].hex()[:size]):
        client.put(each)
        assert client.get() == each
    client.put_many([item[:size], b"", item[:1000], [item[:size]]])
    assert client.get_many() == [item[:size], b"", item[:1000], [item[:size]]]


def test_a_large_message_that_has_begun_to_arrive_is_waited_for(served):
    """A get whose time is over would send it back to the end of the queue, again and again."""
    q, server, client = served
    client.qsize()
    line, held, go_on = client._line, threading.Event(), threading.Event()
    take = line._take

    def slowly(kind, number, content):
        if kind == frames.MESSAGES:
            held.set()
            go_on.wait()
        take(kind, number, content)

    line._take = slowly
    q.put(bytes(MIB))
    getting = Call(client.get, timeout=0)
    try:
        assert held.wait(HANG_SECONDS)
        getting.thread.join(1.5)  # longer than the slack
        assert getting.thread.is_alive()
    finally:
        go_on.set()
    assert len(getting.result()) == MIB
    assert q.qsize() == 0


def test_a_signal_handler_may_put_in_the_middle_of_a_large_put(served):
    q, _, client = served
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    main, over = threading.main_thread().ident, threading.Event()

    def pester():
        while not over.wait(0.002):
            signal.pthread_kill(main, signal.SIGUSR1)

    pest = threading.Thread(target=pester)
    pest.start()
    try:
        for _ in range(5):
            client.put(bytes(20 * MIB))
            assert len(client.get()) == 20 * MIB
    finally:
        over.set()
        pest.join()
        signal.signal(signal.SIGUSR1, before)
