from multitask import Queue, Pool
import os

def writer(q):
    print("writer starts, its parent is %s" % (os.getppid() > 0), flush=True)
    for i in "multitask":
        q.put(i)

def reader(q):
    print("reader starts", flush=True)
    for i in range(q.qsize()):
        print("reader got %s" % q.get(True), flush=True)

q = Queue()
po = Pool(2)
po.apply(writer, (q,))
po.apply(reader, (q,))
po.close()
po.join()
print("end")
