"""Whether a test named like `tests/pure/test_x.py::test_y` exists, by reading its file and running nothing."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def missing(test_id: str, root: Path = ROOT) -> str | None:
    """What is wrong with *test_id*, or None when the test is there. Parameters in brackets are not looked at."""
    file, *names = test_id.split("[")[0].split("::")
    path = root / file
    if not path.is_file():
        return f"there is no file {file}"
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    for name in names:
        found = [node for node in body if getattr(node, "name", None) == name]
        if not found:
            return f"{file} has no {name}"
        node = found[0]
        body = node.body if isinstance(node, ast.ClassDef) else []
    return None
