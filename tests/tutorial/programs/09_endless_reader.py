from multiprocessing import Process
from multitask import Queue

def write(q, seen):
    for value in ["A", "B", "C"]:
        q.put(value)
        seen.get()

def read(q, seen):
    while True:
        print("Get %s from queue." % q.get(True), flush=True)
        seen.put(True)

q = Queue()
seen = Queue()
pw = Process(target=write, args=(q, seen))
pr = Process(target=read, args=(q, seen))
pw.start()
pr.start()
pw.join()
pr.terminate()
pr.join()
print("done", q.qsize())
