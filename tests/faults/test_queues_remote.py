"""Queues between machines: strangers, broken connections, and peers that die in the middle of a message."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading

import fork_beside
import pytest
from queue_kinds import HANG_SECONDS, Call
from queue_peer import KEY, Peer, exactly
from scripts import FORKS_SAID, run

from multitask import Queue, WrongKey
from multitask._engine.queueing.remote import frames
from multitask._engine.queueing.remote import server as server_module

RAW = b"r"  # how bytes are sealed


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.fixture(params=["bytes", "objects"])
def served(request):
    """A queue that holds bytes, and one that holds objects, each served."""
    q = Queue(shared=request.param == "bytes")
    with q.serve(authkey=KEY) as server:
        pair = [q, server]
        yield pair
        pair.clear()  # pytest holds on to what a fixture gave until all others are through
        del q


# --- strangers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", b"", 7])
def test_no_key_is_an_error_that_says_so(key):
    with pytest.raises((TypeError, ValueError), match="authkey"):
        Queue(shared=False).serve(authkey=key)
    with pytest.raises((TypeError, ValueError), match="authkey"):
        Queue.connect(("127.0.0.1", 1), authkey=key)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:80", ("", 0), ("127.0.0.1", "80"), None, ("127.0.0.1", 1 << 20), ("localhost", -1)]
)
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises((TypeError, ValueError), match="host"):
        Queue(shared=False).serve(address, authkey=KEY)
    with pytest.raises((TypeError, ValueError), match="host"):
        Queue.connect(address, authkey=KEY)


def test_loopback_and_a_free_port_are_the_default(served):
    _, server = served
    host, port = server.address
    assert host == "127.0.0.1" and port > 0


def test_a_wrong_key_is_refused_on_both_sides_and_nothing_is_unpickled(served, tmp_path):
    q, server = served
    mark = str(tmp_path / "it went off")
    with pytest.raises(WrongKey):
        Queue.connect(server.address, authkey="another")
    with Peer(server.address, key=b"another") as peer:
        assert peer.refused
        peer.put(1, b"s" + bytes(8) + pickle.dumps(Bomb(mark)))
        try:
            assert peer.sock.recv(1) == b""
        except ConnectionResetError:
            pass
    assert q.empty() and not os.path.exists(mark)


def test_a_bomb_before_the_proof_does_not_go_off(served, tmp_path):
    q, server = served
    mark = str(tmp_path / "it went off")
    with socket.create_connection(server.address) as sock:
        sock.sendall(pickle.dumps(Bomb(mark)) * 10)
        sock.shutdown(socket.SHUT_WR)
        exactly(sock, frames.HELLO_BYTES)
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass
    assert q.empty() and not os.path.exists(mark)


def test_a_false_server_learns_nothing_and_has_nothing_unpickled(tmp_path):
    mark = str(tmp_path / "it went off")
    listener = socket.create_server(("127.0.0.1", 0))

    def pretend():
        with listener.accept()[0] as sock:
            sock.sendall(frames.MAGIC + bytes(frames.NONCE_BYTES))
            exactly(sock, frames.ANSWER_BYTES)
            sock.sendall(frames.WELCOME.pack(bytes(range(32)), True, 10.0, 0))
            item = b"s" + bytes(8) + pickle.dumps(Bomb(mark))
            sock.sendall(frames.frame(frames.YOURS, 1, 0, *frames.pack_items([[item]])))

    liar = Call(pretend)
    with pytest.raises(WrongKey):
        Queue.connect(listener.getsockname(), authkey=KEY)
    liar.result()
    listener.close()
    assert not os.path.exists(mark)


def test_what_bytes_hold_is_opened_by_who_gets_it_and_not_by_the_server(tmp_path):
    mark = str(tmp_path / "opened")
    q = Queue()
    with q.serve(authkey=KEY) as server, Queue.connect(server.address, authkey=KEY) as one:
        one.put(Bomb(mark))
        with Peer(server.address) as other:
            other.get(1)
            kind, _, content = other.receive()
            assert kind == frames.MESSAGES and not os.path.exists(mark)
            other.send(frames.RECEIPT, 1)
            other.receive()
        one.put(Bomb(mark))
        q.get()
        assert os.path.isdir(mark)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\xff" * 100_000])
def test_garbage_is_dropped_and_disturbs_nobody(served, garbage):
    q, server = served
    with Queue.connect(server.address, authkey=KEY) as client:
        with socket.create_connection(server.address) as sock:
            try:
                sock.sendall(garbage)
                while sock.recv(1000):
                    pass
            except ConnectionError:
                pass
        with Peer(server.address) as peer:
            peer.sock.sendall(bytes([200]) * 1000)
            with pytest.raises((EOFError, ConnectionResetError)):
                peer.receive()
        client.put(b"fine")
        assert client.get() == b"fine"


def test_a_length_that_lies_costs_no_memory(served):
    q, server = served
    with Peer(server.address) as peer, Queue.connect(server.address, authkey=KEY) as client:
        peer.sock.sendall(frames.HEAD.pack(frames.PUT, 1, 0, 1 << 60) + b"a little")
        client.put(b"fine")
        assert client.get() == b"fine"
    with Peer(server.address) as peer:
        peer.send(frames.PUT, 1, bytes(8), (1 << 60).to_bytes(8, "big"))
        kind, _, _ = peer.receive()
        assert kind == frames.FAILED


def test_who_says_nothing_blocks_nobody_and_is_dropped(served, monkeypatch):
    q, server = served
    monkeypatch.setattr(server_module, "HANDSHAKE_SECONDS", 0.2)
    slow = [socket.create_connection(server.address) for _ in range(50)]
    with Queue.connect(server.address, authkey=KEY) as client:
        client.put(b"fine")
        assert client.get() == b"fine"
    for sock in slow:
        sock.settimeout(HANG_SECONDS)
        exactly(sock, frames.HELLO_BYTES)
        assert sock.recv(1) == b""
        sock.close()


# --- connections --------------------------------------------------------------------------------------------


def test_a_thousand_connections(served):
    q, server = served
    peers = []
    threads = threading.active_count()
    for _ in range(1000):
        peers.append(Peer(server.address))
        peers[-1].get(1)
    with Queue.connect(server.address, authkey=KEY) as client:
        client.put_many([b"%d" % n for n in range(1000)])
        assert threading.active_count() <= threads + 4
    got = [frames.unpack_items(peer.receive()[2])[0][-4:] for peer in peers]
    assert len(set(got)) == 1000
    for peer in peers:
        peer.send(frames.RECEIPT, 1)
        assert peer.receive()[0] == frames.YOURS
        peer.close()


def test_ipv6(served):
    q, _ = served
    with q.serve(("::1", 0), authkey=KEY) as server, Queue.connect(server.address, authkey=KEY) as client:
        client.put(b"six")
        assert q.get() == b"six"


def test_both_sides_notice_a_machine_that_vanished(served):
    _, server = served
    with Queue.connect(server.address, authkey=KEY) as client:
        client.qsize()
        (connection,) = server.connections
        for sock in (client._line._sock, connection.stream.sock):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_000


def test_a_lost_connection_is_made_again_and_nothing_is_lost_or_doubled(served):
    q, server = served
    with Queue.connect(server.address, authkey=KEY) as client:
        waiting = Call(client.get).asleep()
        for n in range(20):
            client._line._sock.shutdown(socket.SHUT_RDWR)
            client.put(b"%d" % n)
        assert waiting.result() == b"0"
        assert [client.get() for _ in range(19)] == [b"%d" % n for n in range(1, 20)]
        assert client.qsize() == 0 and q.put_count == 20


def test_a_put_sent_twice_is_put_once(served):
    q, server = served
    first = Peer(server.address)
    first.put(1, RAW + b"once")
    first.receive()
    with Peer(server.address, session=first.session) as again:
        assert again.known
        again.send(frames.RESUME, 0, frames.resume_content([1]))
        again.put(1, RAW + b"once")
        assert again.receive()[0] == frames.DONE
    first.close()
    assert q.get_many() == [b"once"]


def test_a_message_on_its_way_is_kept_for_the_client_that_comes_back(served):
    q, server = served
    q.put(b"kept")
    first = Peer(server.address)
    first.get(1)
    assert first.receive()[0] == frames.MESSAGES
    with Peer(server.address, session=first.session) as again:  # the first is half open still
        assert first.sock.recv(1) == b""
        again.send(frames.RESUME, 0, frames.resume_content([1]))
        again.get(1)
        kind, _, content = again.receive()
        assert kind == frames.MESSAGES
        again.send(frames.RECEIPT, 1)
        again.send(frames.RECEIPT, 1)
        assert [again.receive()[0], again.receive()[0]] == [frames.YOURS] * 2
        again.send(frames.BYE, 0)
        assert again.sock.recv(1) == b""
    first.close()
    assert q.empty()


@pytest.mark.parametrize("how", ["bye", "cancel", "resume without it", "away for too long"])
def test_a_message_that_its_client_never_confirmed_goes_back(how):
    q = Queue(shared=False)
    with q.serve(authkey=KEY) as server:
        server.patience = 0.05
        q.put(b"first")
        q.put(b"second")
        peer = Peer(server.address)
        peer.get(1)
        peer.receive()
        if how == "bye":
            peer.send(frames.BYE, 0)
        elif how == "cancel":
            peer.send(frames.CANCEL, 1)
        elif how == "resume without it":
            peer.send(frames.RESUME, 0, frames.resume_content([]))
        else:
            peer.close()
        assert [q.get(timeout=HANG_SECONDS) for _ in range(2)] == [b"second", b"first"]  # at the end
        q.task_done(2)
        q.join(HANG_SECONDS)
        peer.close()


def test_half_a_message_is_no_message(served):
    q, server = served
    peer = Peer(server.address)
    whole = frames.frame(frames.PUT, 1, 0, *frames.put_content(frames.FOREVER, [[RAW + bytes(5_000_000)]]))
    peer.sock.sendall(whole[: len(whole) // 2])
    with Queue.connect(server.address, authkey=KEY) as client:
        client.put(b"another's")
        peer.close()
        assert client.get() == b"another's"
        assert client.qsize() == 0 and q.put_count == 1


def test_closing_the_server_ends_calls_and_gives_back_what_was_on_its_way():
    q = Queue(shared=False)
    server = q.serve(authkey=KEY)
    q.put(b"on its way")
    peer = Peer(server.address)
    peer.get(1)
    peer.receive()
    client = Queue.connect(server.address, authkey=KEY, timeout=0.3)
    waiting = Call(client.get).asleep()
    server.close()
    with pytest.raises(ConnectionError):
        waiting.result()
    with pytest.raises(ConnectionError):
        client.qsize()
    assert q.get_nowait() == b"on its way"
    client.disconnect()
    peer.close()


def test_messages_that_cannot_go_back_are_in_the_error():
    q = Queue(1, shared=False)
    server = q.serve(authkey=KEY)
    q.put(b"on its way")
    with Peer(server.address) as peer:
        peer.get(1)
        peer.receive()
        q.put(b"in its place")
        q.shutdown()
        with pytest.raises(q.ShutDown) as caught:
            server.close()
    assert caught.value.items == [b"on its way"]


# --- two interpreters, of which one is killed ---------------------------------------------------------------

SERVER = """
import sys
from multitask import Queue
q = Queue()
server = q.serve(authkey="key of the tests")
print(*server.address, flush=True)
sys.stdin.read()
"""

CLIENT = """
import os, signal, sys
from multitask import Queue
from multitask._engine.queueing.remote import frames, line
point, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
q = Queue.connect((host, port), authkey="key of the tests")
class Dying:
    def __init__(self, sock):
        self.sock = sock
    def __getattr__(self, name):
        return getattr(self.sock, name)
    def sendall(self, data):
        self.sendmsg([data], self.sock.sendall)
    def sendmsg(self, parts, send=None):
        kind = parts[0][0] if len(parts) > 1 or send else None  # None: the rest of one that has begun
        if kind:
            self.kind, self.left = kind, sum(map(len, parts))
            if point == "half a put" and kind == frames.PUT:
                self.sock.sendall(b"".join(parts)[: self.left // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            if point == "before the receipt" and kind == frames.RECEIPT:
                os.kill(os.getpid(), signal.SIGKILL)
        sent = self.left if send else self.sock.sendmsg(parts)
        if send:
            send(b"".join(parts))
        self.left -= sent
        after = {"after the put": frames.PUT, "after the receipt": frames.RECEIPT}
        if after.get(point) == self.kind and not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return sent
q._line._sock = Dying(q._line._sock)
q.put(bytes(20_000_000)) if "put" in point else q.get()
"""


def interpreter(text, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


OUTCOMES = {
    "half a put": ([b"there"], 1),
    "after the put": ([b"there", bytes(20_000_000)], 2),
    "before the receipt": ([b"there"], 1),
    "after the receipt": ([], 1),
}


@pytest.mark.parametrize("point", OUTCOMES)
def test_a_client_killed_in_the_middle_of_a_message(point):
    q = Queue()
    with q.serve(authkey=KEY) as server:
        server.patience = 0.05
        q.put(b"there")
        client = interpreter(CLIENT, point, server.address[0], str(server.address[1]))
        client.communicate(timeout=HANG_SECONDS)
        assert client.returncode == -signal.SIGKILL
        expected, puts = OUTCOMES[point]
        got = [q.get(timeout=HANG_SECONDS) for _ in expected]
        assert got == expected
        with Queue.connect(server.address, authkey=KEY) as other:
            assert other.qsize() == 0


@pytest.mark.parametrize("call", ["get", "put"])
def test_a_server_killed_under_a_client(call):
    server = interpreter(SERVER)
    host, port = server.stdout.readline().split()
    client = Queue.connect((host, int(port)), authkey=KEY, timeout=0.5)
    if call == "get":
        waiting = Call(client.get).asleep()
    else:
        server.send_signal(signal.SIGSTOP)  # it is in the middle of the message when it is killed
        waiting = Call(client.put, bytes(50_000_000)).asleep()
    server.kill()
    server.communicate()
    with pytest.raises(ConnectionError) as caught:
        waiting.result()
    assert "lost" in str(caught.value)
    client.disconnect()


def test_the_child_of_a_fork_holds_no_connection_open():
    q = Queue(shared=False)
    server = q.serve(authkey=KEY)
    client = Queue.connect(server.address, authkey=KEY, timeout=0.2)
    client.put(b"before")
    hold, release = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(release)
        os.read(hold, 1)
        os._exit(0)
    os.close(hold)
    server.close()
    with pytest.raises(ConnectionError):
        client.qsize()
    os.close(release)
    os.waitpid(child, 0)
    client.disconnect()


def test_the_child_of_a_fork_connects_by_itself(served):
    q, server = served
    with Queue.connect(server.address, authkey=KEY) as client:
        client.put(b"parent")
        child = os.fork()
        if child == 0:
            client.put(b"child")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.get_many() == [b"parent", b"child"]


# --- a child that is forked beside the client -------------------------------------------------------------------------

HELD_BY_A_THREAD = f"""
import select, sys
sys.path.append({os.path.dirname(fork_beside.__file__)!r})
from fork_beside import fork_beside
from multitask import Queue

q = Queue(shared=False)
socks = []

def make():
    remote = Queue.connect(server.address, authkey=b"key")
    socks.append(remote._line._sock)
    return remote

def use(remote):
    poll = select.poll()
    poll.register(socks[0], select.POLLHUP)
    same = remote._line._sock is socks[0] and not poll.poll(0)
    remote.put("x")
    remote.disconnect()
    return same

with q.serve(("127.0.0.1", 0), authkey=b"key") as server:
    print(*fork_beside(make, use), q.get(timeout=20))
"""


def test_a_forked_child_does_not_hang_up_what_another_thread_uses(tmp_path):
    script = run(tmp_path, HELD_BY_A_THREAD, flags=("-W", "error", *FORKS_SAID))
    assert (script.process.returncode, script.out, script.err) == (0, "0 True x\n", "")
