"""Chapter 11: a queue served over TCP, used from another program, which is killed in the middle of its work."""

import subprocess
import sys

from multitask import Queue

KEY = "a secret of both programs"

# The other program, as it would run on another machine.
WORKER = """
import os, signal, sys
from multitask import Queue

host, port, key, dies = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "dies"
with Queue.connect((host, port), authkey=key) as queue:
    for job in queue:
        if dies:
            queue.put(("done", job * job))
            os.kill(os.getpid(), signal.SIGKILL)
        print(job if isinstance(job, int) else job[1], flush=True)
"""


def run_worker(address, how):
    command = [sys.executable, "-c", WORKER, address[0], str(address[1]), KEY, how]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


queue = Queue()
with queue.serve(authkey=KEY) as server:
    print("serving on", server.address[0])

    # A worker that is killed has taken what it had and put what it had put; the queue goes on.
    queue.put_many([7, 8])
    killed = run_worker(server.address, "dies")
    assert killed.returncode < 0, killed
    assert queue.qsize() == 2
    queue.shutdown()
    other = run_worker(server.address, "lives")
    print("after one was killed another got", other.stdout.split())
    assert other.stdout.split() == ["8", "49"], other

    # Who does not have the key gets nothing.
    try:
        Queue.connect(server.address, authkey="a guess")
    except Exception as error:
        print("refused:", str(error).splitlines()[0])
    else:
        raise AssertionError("a guess was let in")

# Without a server the client says so, in time.
try:
    Queue.connect(server.address, authkey=KEY)
except ConnectionError:
    print("no server, and no hang")
else:
    raise AssertionError("nobody was there")
