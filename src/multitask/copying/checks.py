"""What is looked at before the first byte is written: a refusal here has changed nothing."""

from __future__ import annotations

import os
import stat

from multitask.copying.words import shown
from multitask.errors import MultitaskError


class CopyRefused(MultitaskError):
    """The copy was not begun and nothing was written."""


def check(source: str, target: str, *, merge: bool = False) -> None:
    """Raise CopyRefused when *source* cannot be copied to *target*."""
    facts = _source(source)
    _apart(source, target, facts)
    _target(target, merge=merge)
    _not_through_itself(source, target)


def _source(source: str) -> os.stat_result:
    try:
        facts = os.stat(source)
    except OSError as error:
        raise CopyRefused(
            f"cannot copy {shown(source)}: {error.strerror or error}",
            fix="check the first path; it is the folder to copy from",
        ) from error
    if not stat.S_ISDIR(facts.st_mode):
        raise CopyRefused(
            f"cannot copy {shown(source)}: it is not a folder",
            fix="give a folder; for a single file use cp",
        )
    if not os.access(source, os.R_OK | os.X_OK):
        raise CopyRefused(
            f"cannot copy {shown(source)}: this user may not read it",
            fix=f"chmod u+rx the folder, or run as its owner (uid {facts.st_uid})",
        )
    return facts


def _apart(source: str, target: str, facts: os.stat_result) -> None:
    """Links and second mounts are seen through: what counts is which folder a path leads to."""
    at = os.path.realpath(target)
    inside = False
    while True:
        if _same(at, facts):
            break
        above = os.path.dirname(at)
        if above == at:
            return
        at, inside = above, True
    if inside:
        raise CopyRefused(
            f"cannot copy {shown(source)} into itself: {shown(target)} lies inside it",
            fix="choose a destination outside the folder that is copied",
        )
    raise CopyRefused(
        f"cannot copy {shown(source)} to itself: {shown(target)} is the same folder",
        fix="choose another destination",
    )


def _same(path: str, facts: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), facts)
    except OSError:
        return False


def _target(target: str, *, merge: bool) -> None:
    try:
        facts = os.stat(target)
    except FileNotFoundError:
        if os.path.islink(target):
            raise CopyRefused(
                f"cannot copy to {shown(target)}: it is a link that leads nowhere",
                fix="remove the link, or choose another destination",
            ) from None
        return
    except OSError as error:
        raise CopyRefused(
            f"cannot copy to {shown(target)}: {error.strerror or error}", fix="choose another destination"
        ) from error
    if not stat.S_ISDIR(facts.st_mode):
        raise CopyRefused(
            f"cannot copy to {shown(target)}: it exists and is not a folder",
            fix="choose another destination, or move that file away",
        )
    if not merge and _has_entries(target):
        raise CopyRefused(
            f"cannot copy to {shown(target)}: it is not empty",
            fix="add --merge to copy into it (files of the same name are replaced), or choose another destination",
        )


def _has_entries(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError as error:
        raise CopyRefused(
            f"cannot copy to {shown(folder)}: {error.strerror or error}", fix="choose another destination"
        ) from error


def _not_through_itself(source: str, target: str) -> None:
    """SRC below DST is fine unless the copy would be written into SRC: copying b/b/x to a lands in a/b = SRC."""
    below = os.path.relpath(os.path.realpath(source), os.path.realpath(target))
    if below.startswith(os.pardir + os.sep) or below == os.pardir:
        return
    if os.path.lexists(os.path.join(source, below)):
        raise CopyRefused(
            f"cannot copy {shown(source)} to {shown(target)}: its own {shown(below)} would be written into itself",
            fix="choose a destination outside",
        )
