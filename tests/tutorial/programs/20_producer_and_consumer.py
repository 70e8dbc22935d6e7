import threading
import time
from multitask import Queue

class Producer(threading.Thread):
    def run(self):
        global queue
        for count in range(1, 31):
            queue.put("product %d" % count)
            print("made %d" % count)

class Consumer(threading.Thread):
    def run(self):
        global queue
        for i in range(10):
            print(self.name + " took " + queue.get())

queue = Queue(10)
p = Producer()
consumers = [Consumer() for i in range(3)]
p.start()
for c in consumers:
    c.start()
p.join()
for c in consumers:
    c.join()
print("left over: %d" % queue.qsize())
