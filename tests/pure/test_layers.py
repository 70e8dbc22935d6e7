"""Imports point down only, and time is read in one place. Reads the sources; runs none of them.

    cli -> copying -> public modules -> _engine -> _native, errors, _typing

Imports under ``if TYPE_CHECKING:`` are for the type checker and count for nothing here.
"""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "multitask"
FILES = sorted(path for pattern in ("*.py", "*.pyx", "*.pxi") for path in SOURCE.rglob(pattern))

CLI, COPYING, PUBLIC, ENGINE, BOTTOM = range(5)

# The package itself hands every public name out lazily: the command may take them from there, like any user.
PACKAGE = "multitask"
ENTRIES = {PACKAGE, "multitask.__main__"}

# Arrows that point up on purpose, each with its reason. An entry no longer needed fails the test.
EXCEPTIONS = {
    ("multitask._native.core", "multitask._engine.core"): "the records of the interface that it implements",
    ("multitask._native.core", "multitask._engine.headroom"): "how much is to spare: asked at the first large content",
    ("multitask._native.core", "multitask._engine.sites"): "which frames are ours: set once, at import",
    ("multitask._native.core", "multitask._engine.wire"): "the class of a parcel, to make instances of",
    ("multitask._native.ring", "multitask._engine.cpus"): "how many there are: nobody spins on the only one",
    ("multitask._native.ring", "multitask._engine.envelope"): "objects that the codec cannot write",
    ("multitask._native.ring", "multitask._engine.queueing.interface"): "the class of the error to raise",
    ("multitask._native.core", "multitask.task"): "Task.result() is taken up again where C leaves it",
    ("multitask._engine.engine", "multitask.policies"): "makes the policy that the pool was given by name",
    ("multitask._engine.portable", "multitask.policies"): "asks a policy for its key; FIFO needs none",
}


def layer(module):
    first = module.split(".")[1]
    if first in ("_native", "_timeout", "_typing", "errors"):
        return BOTTOM
    return {"cli": CLI, "copying": COPYING, "_engine": ENGINE}.get(first, PUBLIC)


def module_name(path):
    if path.suffix == ".pxi":  # a part of an extension, in a file of its own
        owners = [each for each in path.parent.glob("*.pyx") if f'include "{path.name}"' in each.read_text()]
        return f"multitask._native.{'core' if path.parent / 'core.pyx' in owners else owners[0].stem}"
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name):
    path = SOURCE.parent.joinpath(*name.split("."))
    return any(path.with_suffix(suffix).exists() for suffix in (".py", ".pyx")) or path.is_dir()


def imports(path):
    """(module, line) of each import of multitask's own modules that really happens."""
    if path.suffix != ".py":
        yield from _imports_of_cython(path)
        return
    pending = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            source = _in_full(node, path)
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield (whole if is_module(whole) else source), node.lineno


def _in_full(node, path):
    """The module that a ``from`` import names, a relative one written out."""
    if not node.level:
        return node.module
    package = path.relative_to(SOURCE.parent).parent.parts
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])


def _imports_of_cython(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split()
        if len(words) > 1 and words[0] in ("import", "from", "cimport"):
            yield words[1], number


def own_imports(path):
    return [(name, line) for name, line in imports(path) if name.split(".")[0] == "multitask"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_down(path):
    module = module_name(path)
    if module in ENTRIES:
        return
    wrong = []
    for name, line in own_imports(path):
        if (module, name) in EXCEPTIONS:
            continue
        if name == PACKAGE and layer(module) <= COPYING:
            continue
        if name in ENTRIES:
            wrong.append(f"line {line}: imports the package itself; import the module that has the name")
        elif layer(name) < layer(module):
            wrong.append(f"line {line}: {module} imports {name}, which lies above it")
    assert not wrong, "\n".join(wrong)


def test_every_exception_is_still_needed():
    seen = {(module_name(path), name) for path in FILES for name, _ in own_imports(path)}
    assert set(EXCEPTIONS) <= seen


CLOCK_READERS = {"time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "perf_counter_ns"}


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.suffix == ".py"], ids=lambda p: p.relative_to(SOURCE).as_posix()
)
def test_only_the_clock_reads_the_time(path):
    if path.name == "clock.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            read = {alias.name for alias in node.names} & CLOCK_READERS
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
            read = {node.attr} & CLOCK_READERS
        else:
            continue
        assert not read, f"line {node.lineno}: use multitask._engine.clock"


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.suffix == ".py"], ids=lambda p: p.relative_to(SOURCE).as_posix()
)
def test_the_first_line_says_what_the_file_is_for(path):
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree)
