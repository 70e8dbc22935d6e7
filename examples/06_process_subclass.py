"""Chapter 6: subclasses of Process with a run() and an __init__ of their own."""

from multitask import Process


class Adder(Process):
    """Adds two numbers elsewhere."""

    def __init__(self, first, second):
        super().__init__(name="adder")
        self.first, self.second = first, second

    def run(self):
        return self.first + self.second


adder = Adder(20, 22)
adder.start()
print(adder.name, adder.result())
assert adder.result() == 42


class Forgetful(Process):
    """Does not call Process.__init__."""

    def __init__(self):
        self.first = 1


try:
    Forgetful().start()
except RuntimeError as error:
    print(error)
    assert "super().__init__()" in str(error)
else:
    raise AssertionError("it started")
