"""Every Python block in the docs and the READMEs runs, and prints what stands below it.

The blocks of a page are one program, run as a script by a fresh interpreter. A ```text block right after one is
what it prints; the numbers of processes and workers may be others.
A block after the line `<!-- not run: REASON -->` is left out.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = "=== end of block ==="


class Block(NamedTuple):
    line: int  # of its first line in the page
    code: str
    expected: str | None


def blocks(page):
    """The Python blocks of *page* with what they are to print."""
    text = page.read_text(encoding="utf-8")
    fences = list(re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    found = []
    for number, fence in enumerate(fences):
        if fence[1] != "python" or "<!-- not run:" in text[: fence.start()].rstrip().rpartition("\n")[2]:
            continue
        follower = fences[number + 1] if number + 1 < len(fences) else None
        beside = follower and follower[1] == "text" and not text[fence.end() : follower.start()].strip()
        line = text.count("\n", 0, fence.start(2)) + 1
        found.append(Block(line, fence[2], follower[2] if beside else None))
    return found


def script_of(found):
    """All blocks as one script; the first begins in its first line."""
    return "".join(f"{block.code}import sys; sys.stdout.flush(); print({MARK!r}, flush=True)\n" for block in found)


def matches(printed, expected):
    return _steady(printed) == _steady(expected)


def _steady(text):
    """*text* without the numbers that are others in each run."""
    text = re.sub(r"\bpid \d+", "pid N", text.strip())
    return re.sub(r"\bworker-\d+", "worker-N", text)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_do_what_it_says(page, tmp_path):
    found = blocks(page)
    script = tmp_path / "program.py"
    script.write_text(script_of(found), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{page.name}:\n{done.stderr}"
    for block, printed in zip(found, done.stdout.split(MARK), strict=False):
        if block.expected is not None:
            assert matches(printed, block.expected), f"{page.name}:{block.line} prints\n{printed}"


def test_both_readmes_show_the_same_program():
    assert [block.code for block in blocks(PAGES[0])][0] == [block.code for block in blocks(PAGES[1])][0]


def test_every_page_is_in_the_navigation():
    listed = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[2:]:
        assert page.relative_to(ROOT / "docs").as_posix() in listed
