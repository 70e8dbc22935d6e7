"""Where the control groups of this process keep their limits (cgroups(7)).

*root* is where ``proc`` and ``sys`` are found; a test gives a folder of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator


def control_groups(root: str, controller: str) -> Iterator[str]:
    """Every folder that may hold a limit of *controller* for this process, from its own group up to the mount."""
    mounts = _mounts(root, controller)
    for line in lines(os.path.join(root, "proc/self/cgroup")):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        name = "" if controllers == "" else controller
        if name not in controllers.split(","):
            continue
        for shown, folder in mounts.get(name, []):
            # Inside a container without a cgroup namespace the mount shows a part of the tree only.
            inside = group[len(shown) :] if shown != "/" and group.startswith(shown) else group
            at = os.path.join(folder, *(part for part in inside.split("/") if part not in ("", "..")))
            yield from _up(at, folder)


def _up(at: str, top: str) -> Iterator[str]:
    while at != top and at.startswith(top):
        yield at
        at = os.path.dirname(at)
    yield top


def _mounts(root: str, controller: str) -> dict[str, list[tuple[str, str]]]:
    """Where hierarchies are mounted: controller ("" for version 2) -> [(the part shown, folder)]."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in lines(os.path.join(root, "proc/self/mountinfo")):
        fields, _, source = line.partition(" - ")
        columns, kind = fields.split(), source.split()
        if len(columns) < 5 or len(kind) < 3:
            continue
        place = (columns[3], os.path.join(root, columns[4].lstrip("/")))
        if kind[0] == "cgroup2":
            found.setdefault("", []).append(place)
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            found.setdefault(controller, []).append(place)
    return found


def lines(path: str) -> list[str]:
    """The lines of a file of the kernel's; none where it cannot be read."""
    text = b""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # open() takes three times as long, and a pool asks for many
        try:
            while more := os.read(file, 65536):
                text += more
        finally:
            os.close(file)
    except OSError:
        return []
    return text.decode("utf-8", "replace").splitlines()
