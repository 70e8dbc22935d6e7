"""Plants named faults one after the other, each in a copy of the project, and sees that its test turns red.

    make mutants                          all of them
    make mutants MUTANTS="NAME NAME"      these
    .venv/bin/python tools/mutants.py --list

The faults stand in mutants.toml, whose head explains the format. Before any fault is planted all named tests
must be green. Exit code 1 when a fault survives, cannot be planted, or breaks the build instead of a test, and when
its test hangs for so long that this tool has to end it: a test must see a hang by itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
import venv
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tools" / "mutants.toml"
NATIVE_SUFFIXES = {".pyx", ".pxd", ".pxi", ".h", ".c"}
TIMEOUT_SECONDS = 40  # of one test: pytest ends it, and it is red
SECONDS = 240  # for the whole run of the tests that belong to a fault
MARK = "MULTITASK_MUTANTS"  # in the environment of all that runs in a copy
RED, GREEN, HUNG = "red", "green", "it hung, and no timeout of its own ended it"


@dataclass(frozen=True)
class Mutant:
    """One fault: in *file* the text *old* becomes *new*, and then *test* must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str
    why: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def native(self) -> bool:
        """Whether the extension is to be built again. The tests in C compile what they need by themselves."""
        return Path(self.file).suffix in NATIVE_SUFFIXES and not self.test.startswith(("make ", "tests/native/"))

    def fits(self, root: Path) -> str | None:
        """Why this fault cannot be planted in *root*, or None."""
        path = root / self.file
        if not path.is_file():
            return f"there is no file {self.file}"
        count = path.read_text(encoding="utf-8").count(self.old)
        return None if count == 1 else f"the old text stands {count} times in {self.file}, not once"


def load(path: Path = LIST) -> list[Mutant]:
    """The faults of *path*, in its order."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", [])
    return [Mutant(**entry) for entry in entries]


class Copy:
    """A copy of the project with a build of its own, in which faults are planted."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.sound: dict[Path, bytes] = {}
        for name in self._files():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        self.python = self._make_environment()
        self._build_quickly()
        self._build()
        self.objects = {path: path.read_bytes() for path in folder.glob("src/multitask/_native/*.so")}
        where = self._python("-c", "import multitask; print(multitask.__file__)")
        if not where.stdout.startswith(str(folder)):
            raise SystemExit(f"mutants: the tests would run {where.stdout.strip()} and not the copy")

    @staticmethod
    def _files() -> list[str]:
        """What git knows or would know, so that builds, caches and environments stay behind."""
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]

    def plant(self, mutant: Mutant) -> str | None:
        """Put the fault in; returns what went wrong."""
        wrong = mutant.fits(self.root)
        if wrong:
            return wrong
        path = self.root / mutant.file
        text = path.read_text(encoding="utf-8")
        self.sound[path] = text.encode()
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        if not mutant.native:
            return None
        for built in self.objects:
            built.unlink(missing_ok=True)
        built_well = self._build().returncode == 0
        here = all(path.exists() for path in self.objects)
        return None if built_well and here else "it does not compile, so it shows nothing"

    def heal(self) -> None:
        """Take every fault out again."""
        for path, content in self.sound.items():
            path.write_bytes(content)
        for path, content in self.objects.items():
            path.unlink(missing_ok=True)  # a process may still have it mapped: a new file, not new content
            path.write_bytes(content)
        self.sound.clear()

    def run(self, test: str, environment: dict[str, str]) -> tuple[str, str]:
        """Run *test*; returns RED, GREEN or HUNG, or what kept it from running, and the output."""
        pytest = [self.python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        # By thread: it ends the process, which might otherwise hang on at its exit.
        pytest += [f"--timeout={TIMEOUT_SECONDS}", "--timeout-method=thread", "-o", "faulthandler_timeout=0", test]
        command = test.split() if test.startswith("make ") else pytest
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=self._environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return HUNG, output
        finally:
            self._end_leftovers()
        if command is not pytest:
            return (RED if process.returncode else GREEN), output
        # 1: tests failed; 0: all passed. 2, 4, 5: nothing was tested. Anything else: the fault killed the run.
        verdicts = {0: GREEN, 2: "could not be collected", 4: "no such test", 5: "no test collected"}
        return verdicts.get(process.returncode, RED), output

    def _make_environment(self) -> str:
        """An environment in which every Python finds this copy and, for the rest, what this one has installed."""
        venv.create(self.root / ".venv", symlinks=True)
        packages = sysconfig.get_path("purelib", vars={"base": str(self.root / ".venv")})
        # A folder named here is searched, but its own .pth files are not: one of them leads to the original.
        lines = [str(self.root / "src"), *(path for path in sys.path if path.endswith("-packages"))]
        Path(packages, "copy.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(self.root / ".venv" / "bin" / "python")

    def _build_quickly(self) -> None:
        """Optimizing takes the compiler longer than all the tests together."""
        setup = self.root / "setup.py"
        setup.write_text(setup.read_text(encoding="utf-8").replace('"-O2"', '"-O0"'), encoding="utf-8")

    def _end_leftovers(self) -> None:
        """Kill what a test with a fault in it has left behind: a fault may well be that nothing is killed."""
        mark = f"{MARK}={self.root}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:  # another user's, or gone
                continue

    def _build(self) -> subprocess.CompletedProcess[str]:
        return self._python("setup.py", "--quiet", "build_ext", "--inplace")

    def _python(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [self.python, *words]
        return subprocess.run(command, cwd=self.root, env=self._environment({}), capture_output=True, text=True)

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return {**inherited, "PYTHONDONTWRITEBYTECODE": "1", MARK: str(self.root), **more}


def sound_tests(copy: Copy, mutants: list[Mutant]) -> list[str]:
    """The tests that are red without any fault: what they show with one is worth nothing."""
    red = []
    for test, environment in {(m.test, tuple(sorted(m.environment.items()))): None for m in mutants}:
        verdict, output = copy.run(test, dict(environment))
        if verdict != GREEN:
            red.append(f"{test}: {verdict} before any fault was planted")
            print(output[-2000:], file=sys.stderr)
    return red


def try_one(copy: Copy, mutant: Mutant) -> str:
    """Plant *mutant*, run its test, heal; returns the verdict."""
    try:
        wrong = copy.plant(mutant)
        return wrong or copy.run(mutant.test, mutant.environment)[0]
    finally:
        copy.heal()


def main() -> int:
    """Plant the chosen faults and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="names or beginnings of names of faults; default: all")
    parser.add_argument("--list", action="store_true", help="show the faults and plant none")
    options = parser.parse_args()
    mutants = [m for m in load() if not options.names or m.name.startswith(tuple(options.names))]
    if options.list or not mutants:
        for mutant in mutants:
            print(f"{mutant.name}\n  {mutant.file}\n  {mutant.test}\n  {mutant.why}")
        return 0 if mutants else 2
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        return plant_all(Copy(Path(folder).resolve()), mutants)


def plant_all(copy: Copy, mutants: list[Mutant]) -> int:
    """The table, a line as each verdict falls; 1 when one fault was not caught."""
    print(f"{len(mutants)} faults; first their tests without any", flush=True)
    missed = sound_tests(copy, mutants)
    width = max(len(mutant.name) for mutant in mutants)
    for mutant in mutants:
        begun = time.monotonic()
        verdict = try_one(copy, mutant)
        caught = verdict == RED
        shown = {RED: "caught", GREEN: "SURVIVED"}.get(verdict, f"BROKEN: {verdict}")
        print(f"{mutant.name:<{width}}  {time.monotonic() - begun:5.1f} s  {shown}  {mutant.test}", flush=True)
        if not caught:
            missed.append(f"{mutant.name}: {shown}")
    print(f"\n{len(mutants)} faults planted, {len(missed)} complaints")
    for line in missed:
        print(f"  {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
