"""Chapter 10: a plain Queue is an argument of a pool's task, a result, and an item of another queue."""

from multitask import Manager, Pool, Queue


def writer(q):
    for letter in "multitask":
        q.put(letter)


def reader(q):
    return "".join(q)  # until it is shut down


# The pool runs already; no guard, no Manager.
with Pool(3) as pool:
    q = Queue(4)
    read = pool.apply_async(reader, (q,))
    pool.apply(writer, (q,))
    q.shutdown()
    print("through a queue:", read.get())
    assert read.get() == "multitask"

    # A queue of queues: each task answers on the one that came with its question.
    questions = Queue()

    def answer():
        for number, back in questions:
            back.put(number * number)

    tasks = [pool.submit(answer) for _ in range(2)]
    answers = [Queue() for _ in range(5)]
    for number, back in enumerate(answers):
        questions.put((number, back))
    got = [back.get() for back in answers]
    questions.shutdown()
    print("answers:", got)
    assert got == [0, 1, 4, 9, 16]

    # One that a task made outlives the worker.
    def make():
        fresh = Queue()
        fresh.put("made in a worker")
        return fresh

    fresh = pool.submit(make).result()
assert fresh.get() == "made in a worker"

# The usual way still works.
with Manager() as manager, Pool(2) as pool:
    q = manager.Queue()
    pool.apply(writer, (q,))
    q.put(None)
    letters = pool.apply(lambda q: "".join(iter(q.get, None)), (q,))
print("through a Manager:", letters)
assert letters == "multitask"
