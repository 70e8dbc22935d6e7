"""Chapter 8: who waits for whom. The standard library's Pool loses work when the parent ends; this one does not.

This version has the Pool; fork() and Process come later.
"""

import pathlib
import subprocess
import sys
import tempfile

# The same script, once with each library: it gives 20 tasks to a pool and ends without close() or join().
SCRIPT = """
import pathlib, sys
from {library} import Pool

def leave_a_mark(n):
    (pathlib.Path(sys.argv[1]) / str(n)).touch()

if __name__ == "__main__":
    pool = Pool(2)
    for n in range(20):
        pool.apply_async(leave_a_mark, (n,))
"""


def marks_left(library):
    with tempfile.TemporaryDirectory() as folder:
        script = pathlib.Path(folder, "script.py")
        script.write_text(SCRIPT.format(library=library))
        marks = pathlib.Path(folder, "marks")
        marks.mkdir()
        subprocess.run([sys.executable, script, marks], check=True, stderr=subprocess.DEVNULL)
        return len(list(marks.iterdir()))


print("marks left by multiprocessing:", marks_left("multiprocessing"), "of 20 (it varies)")
kept = marks_left("multitask")
print("marks left by multitask:", kept, "of 20")
assert kept == 20

# The result and the exception of a child come back, the exception with the child's traceback.
from multitask import Pool  # noqa: E402

with Pool(1) as pool:
    error = pool.submit(lambda: {}["a key that is missing"]).exception()
print(type(error).__name__, "in the worker; its traceback is chained:", error.__cause__ is not None)
assert isinstance(error, KeyError) and "lambda" in str(error.__cause__)
