"""Runs the few tests that have just failed beside others once more, alone: is it the code, or did they lack a CPU?

    make test         calls this after a run in which no more than MOST tests failed

Exit code 0 when all pass alone; they are named then, for a test that fails beside others has something to tell:
either its patience is too short for a busy machine, or two things race that seldom do. Any other failure stays one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAILED = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
MOST = 5


def main() -> int:
    names = sorted(json.loads(FAILED.read_text())) if FAILED.exists() else []
    if not 0 < len(names) <= MOST:
        print(f"{len(names)} tests failed", file=sys.stderr)
        return 1
    print(f"\nOnce more, alone: {len(names)} of them", flush=True)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names], cwd=ROOT)
    if done.returncode == 0:
        print("Failed beside others and passed alone, to be looked into:", *names, sep="\n  ")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
