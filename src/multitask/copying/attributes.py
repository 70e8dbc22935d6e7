"""Modes, times, owners and extended attributes: what of them goes along, as far as this user's rights allow."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple, Protocol

_XATTRS = hasattr(os, "listxattr")
# What a file system or a user without rights answers to an extended attribute; shutil.copystat passes over these too.
_UNKEEPABLE = {errno.EPERM, errno.ENOTSUP, errno.ENODATA, errno.EINVAL, errno.EACCES}


class Facts(Protocol):
    """What is needed of an ``os.stat_result``."""

    @property
    def st_mode(self) -> int: ...
    @property
    def st_uid(self) -> int: ...
    @property
    def st_gid(self) -> int: ...
    @property
    def st_atime_ns(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...


class Keep(NamedTuple):
    """What is kept besides modes and times. ``owner`` only works for root; others keep their own name on it."""

    owner: bool = True
    xattrs: bool = True


def keep_attributes(source: int, target: int, facts: Facts, keep: Keep) -> None:
    """Give the open *target* what the open *source* has; *facts* is its fstat from before it was read."""
    # The owner first: changing it clears setuid. The times last: everything else may touch them.
    safe_mode = _keep_owner(target, facts, keep)
    if keep.xattrs and _XATTRS:
        _keep_xattrs(source, target)
    os.fchmod(target, safe_mode)
    os.utime(target, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _keep_owner(target: int, facts: Facts, keep: Keep) -> int:
    """Keep the owner where we may; returns the mode, less setuid and setgid where another's would become ours."""
    mode = stat.S_IMODE(facts.st_mode)
    uid, gid = os.geteuid(), os.getegid()
    if keep.owner and uid == 0 and (facts.st_uid, facts.st_gid) != (uid, gid):
        try:
            os.fchown(target, facts.st_uid, facts.st_gid)
            return mode
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
    if mode & (stat.S_ISUID | stat.S_ISGID):
        now = os.fstat(target)
        if now.st_uid != facts.st_uid:
            mode &= ~stat.S_ISUID
        if now.st_gid != facts.st_gid:
            mode &= ~stat.S_ISGID
    return mode


def _keep_xattrs(source: int, target: int) -> None:
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno not in _UNKEEPABLE:
            raise
        return
    for name in names:
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno not in _UNKEEPABLE:
                raise


def keep_link_attributes(name: str, folder: int, facts: os.stat_result, keep: Keep) -> None:
    """Give the symbolic link *name* in *folder* the owner and times of its original."""
    if keep.owner and os.geteuid() == 0 and (facts.st_uid, facts.st_gid) != (0, os.getegid()):
        try:
            os.chown(name, facts.st_uid, facts.st_gid, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
    if os.utime in os.supports_follow_symlinks:
        os.utime(name, ns=(facts.st_atime_ns, facts.st_mtime_ns), dir_fd=folder, follow_symlinks=False)
