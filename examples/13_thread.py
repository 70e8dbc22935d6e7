"""Chapter 13: threads whose results and errors are not lost, and that can be asked to stop."""

import threading

from multitask import CancelledError, Thread, current_thread, current_token


def square(number):
    return number * number


# Several at once, and the main thread waits.
threads = [Thread(target=square, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
results = [thread.result() for thread in threads]
print("results:", results)
assert results == [0, 1, 4, 9]


class Named(Thread):
    """A subclass with a run() of its own."""

    def __init__(self, greeting):
        super().__init__(name="greeter")
        self.greeting = greeting

    def run(self):
        return f"{self.greeting} from {current_thread().name}"


named = Named("hello")
named.start()
print(named.result())
assert named.result() == "hello from greeter"

# An error that nobody waits for is reported at once, as in the standard library; and it reaches the one who asks.
threading.excepthook = lambda args: print("reported:", args.exc_value)
failing = Thread(target=int, args=("forty-two",))
failing.start()
failing.join()
error = failing.exception()
print("failed:", error)
assert isinstance(error, ValueError)


# A thread is asked to stop, and does where it looks.
def work_forever(done):
    while True:
        current_token().check()
        done.append(len(done))


done: list[int] = []
endless = Thread(target=work_forever, args=(done,))
endless.start()
while not done:
    current_token().wait(0.001)
endless.cancel()
try:
    endless.result()
except CancelledError:
    print("stopped after it had done something:", bool(done))
assert endless.cancelled()
