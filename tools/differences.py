"""Makes docs/differences.md, and the README's table, from docs/differences.toml.

    .venv/bin/python tools/differences.py         writes both

Each difference names the test that shows it; one that is not listed there is a bug.
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docs" / "differences.toml"
PAGE = ROOT / "docs" / "differences.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- differences: made by tools/differences.py -->", "<!-- end of differences -->"

HEAD = """\
# Differences on purpose

<!-- Made by tools/differences.py from differences.toml: change that file and run the tool. -->

Names, signatures and semantics that the standard library has are the standard library's. Where multitask leaves
them it is for one of its promises (nothing hangs silently, nothing is lost silently, what happens can be seen),
and it stands here, with the way back to the old behaviour and the test that shows it. A difference that is
missing from this table is a bug: please report it.
"""


@dataclass(frozen=True)
class Difference:
    """One row. *old* tells how to get the standard library's behaviour; a *minor* one is left out of the README."""

    name: str
    stdlib: str
    here: str
    why: str
    old: str
    test: str
    minor: bool = False


def load(path: Path = SOURCE) -> list[Difference]:
    """The rows, in the order of the file."""
    return [Difference(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["difference"]]


def page(rows: list[Difference]) -> str:
    """docs/differences.md: everything about each row."""
    lines = [HEAD]
    for row in rows:
        lines += [
            f"## {row.name}\n",
            f"**Standard library:** {row.stdlib}\n",
            f"**Here:** {row.here}\n",
            f"**Why:** {row.why}\n",
            f"**The old behaviour:** {row.old}\n",
            f"**Test:** `{row.test}`\n",
        ]
    return "\n".join(lines)


def table(rows: list[Difference]) -> str:
    """The README's table: one line each, and how many there are besides."""
    main = [row for row in rows if not row.minor]
    more = f"\n\nAnd {len(rows) - len(main)} smaller ones: see [the whole list](docs/differences.md)."
    head = ["| what | standard library | here | the old behaviour |", "|---|---|---|---|"]
    return "\n".join([*head, *(f"| {row.name} | {row.stdlib} | {row.here} | {row.old} |" for row in main)]) + more


def readme(rows: list[Difference], text: str) -> str:
    """The README's *text* with the present table between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"differences: the README lacks {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def main() -> int:
    """Write both."""
    rows = load()
    PAGE.write_text(page(rows), encoding="utf-8")
    README.write_text(readme(rows, README.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
