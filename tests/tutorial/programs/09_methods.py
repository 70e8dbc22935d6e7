from multitask import Queue

q = Queue(3)
q.put("message 1")
q.put("message 2")
print(q.full())
q.put("message 3")
print(q.full())

try:
    q.put("message 4", True, 0.2)
except Exception as e:
    print("the queue is full, it has %s messages" % q.qsize(), type(e).__name__)

try:
    q.put_nowait("message 4")
except:
    print("the queue is full, it has %s messages" % q.qsize())

if not q.full():
    q.put_nowait("message 4")

if not q.empty():
    for i in range(q.qsize()):
        print(q.get_nowait())

try:
    q.get(block=True, timeout=0.2)
except Exception as e:
    print(type(e).__name__, q.empty())
