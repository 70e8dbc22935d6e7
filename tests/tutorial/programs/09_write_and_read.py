from multiprocessing import Process
from multitask import Queue
import os, time, random

def write(q):
    for value in ["A", "B", "C"]:
        print("Put %s to queue..." % value, flush=True)
        q.put(value)
        time.sleep(random.random() * 0.01)

def read(q):
    while True:
        if not q.empty():
            value = q.get(True)
            print("Get %s from queue." % value, flush=True)
            time.sleep(random.random() * 0.01)
        else:
            break

q = Queue()
pw = Process(target=write, args=(q,))
pr = Process(target=read, args=(q,))
pw.start()
pw.join()
pr.start()
pr.join()
print("all is written and read")
