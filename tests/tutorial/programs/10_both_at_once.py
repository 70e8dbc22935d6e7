from multitask import Queue, Pool

def writer(q):
    for i in range(200):
        q.put(i)
    q.put(None)

def reader(q):
    total = 0
    while True:
        i = q.get()
        if i is None:
            return total
        total += i

q = Queue(5)
po = Pool(2)
result = po.apply_async(reader, (q,))
po.apply_async(writer, (q,))
po.close()
po.join()
print(result.get())
