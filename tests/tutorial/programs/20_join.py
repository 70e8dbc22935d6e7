import threading
from multitask import Queue

def worker():
    while True:
        item = q.get()
        print(f"Working on {item}", flush=True)
        q.task_done()

q = Queue()
threading.Thread(target=worker, daemon=True).start()
for item in range(5):
    q.put(item)
q.join()
print("All work completed")
