"""The 22 chapters of the field and what exists of each: its example and its page in the docs.

    make chapters                             prints the table
    .venv/bin/python tools/chapters.py --write   puts it into the README and the docs

A chapter NN has `examples/NN_*.py` and `docs/chapters/NN-*.md`; where one of the two is missing it is "not yet".
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- chapters: made by tools/chapters.py -->", "<!-- end of chapters -->"
PAGES = (ROOT / "README.md", ROOT / "docs" / "chapters" / "index.md")

TITLES = {
    1: "Scheduling",
    2: "Concurrency and parallelism",
    3: "fork",
    4: "Memory of processes",
    5: "Process",
    6: "Process subclass",
    7: "Pool",
    8: "fork, Process or Pool",
    9: "Queue between processes",
    10: "Queue with a Pool",
    11: "Between machines",
    12: "Folder copy",
    13: "Thread",
    14: "Order is not determined",
    15: "Shared globals and races",
    16: "Waiting by polling",
    17: "Lock",
    18: "Deadlock",
    19: "Ordered execution",
    20: "Producer and consumer",
    21: "Thread-local",
    22: "Asynchrony and the GIL",
}

# Chapters of which this version covers a part.
BEGUN = {
    4: "results and queues",
    5: "results, errors, lifetimes; detached and states later",
    9: "with the standard library's Process; our own later",
    8: "Pool; fork and Process later",
    11: "clusters later",
    12: "right; the fastest later",
    13: "results, errors and cancelling; states later",
    15: "Counter, Value; Guarded and interleave later",
    22: "sub-interpreters and free threads later",
}


@dataclass(frozen=True)
class Chapter:
    """One chapter; *example* and *page* are None while they do not exist."""

    number: int
    title: str
    example: Path | None
    page: Path | None

    @property
    def done(self) -> bool:
        return self.example is not None and self.page is not None

    def row(self, base: Path) -> str:
        """A line of the table, with links as seen from the folder *base*."""
        example = f"`{self.example.relative_to(ROOT)}`" if self.example else "not yet"
        page = f"[{self.page.stem}]({_link(self.page, base)})" if self.page else "not yet"
        state = BEGUN.get(self.number, "yes") if self.done else "not yet"
        return f"| {self.number} | {self.title} | {example} | {page} | {state} |"


def _link(path: Path, base: Path) -> str:
    # The pages of the site lie side by side and name their example.
    return path.relative_to(ROOT).as_posix() if base == ROOT else path.name


def chapters(root: Path = ROOT) -> list[Chapter]:
    """All 22, in order."""
    return [
        Chapter(
            number,
            title,
            _only(root / "examples", f"{number:02}_*.py"),
            _only(root / "docs/chapters", f"{number:02}-*.md"),
        )
        for number, title in TITLES.items()
    ]


def _only(folder: Path, pattern: str) -> Path | None:
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        raise SystemExit(f"chapters: more than one {pattern} in {folder.relative_to(ROOT)}")
    return found[0] if found else None


def table(base: Path = ROOT) -> str:
    """The table as Markdown."""
    head = ["| # | chapter | example | docs | here |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(chapter.row(base) for chapter in chapters())])


def replaced(page: Path) -> str:
    """The text of *page* with the present table between its marks."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"chapters: {page.relative_to(ROOT)} lacks {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{table(page.parent)}\n{END}{after}"


def main() -> int:
    """Print the table, or write it."""
    if "--write" in sys.argv[1:]:
        for page in PAGES:
            page.write_text(replaced(page), encoding="utf-8")
        return 0
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
