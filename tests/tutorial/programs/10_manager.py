from multitask import Manager, Pool

def writer(q):
    for i in "abc":
        q.put(i)

def reader(q):
    for i in range(q.qsize()):
        print("reader got %s" % q.get(True), flush=True)

q = Manager().Queue()
po = Pool(2)
po.apply(writer, (q,))
po.apply(reader, (q,))
po.close()
po.join()
print("end")
