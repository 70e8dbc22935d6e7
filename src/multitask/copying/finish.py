"""What the driving thread does to the destination itself: folders get their last touch, temporary files are removed."""

from __future__ import annotations

import os

from multitask.copying import folders
from multitask.copying.attributes import Keep, keep_attributes
from multitask.copying.plan import Batch, Folder
from multitask.copying.steps import Orders, temporary_name


def finish_folder(source: int, target: int, folder: Folder, keep: Keep) -> None:
    """Give a folder below the two roots its owner, mode and times; raises OSError."""
    there = folders.open_target(target, folder.path)
    try:
        here = folders.open_source(source, folder.path)
        try:
            keep_attributes(here, there, folder, keep)
        finally:
            os.close(here)
    finally:
        os.close(there)


def sweep(orders: Orders, batch: Batch) -> None:
    """Remove the temporary file that a killed worker may have left of *batch*."""
    name = temporary_name(orders.token, batch.number)
    try:
        root = folders.open_root(orders.target)
    except OSError:
        return
    try:
        for part in batch.parts:
            _remove(root, part.folder, name)
    finally:
        os.close(root)


def _remove(root: int, folder: str, name: str) -> None:
    try:
        there = folders.open_target(root, folder)
    except OSError:
        return
    try:
        os.unlink(name, dir_fd=there)
    except OSError:
        pass
    finally:
        os.close(there)


def temporary_size(orders: Orders, batch: Batch) -> int:
    """Bytes that stand in the temporary file of *batch* so far; 0 when it is not there."""
    path = os.path.join(orders.target, batch.parts[0].folder, temporary_name(orders.token, batch.number))
    try:
        return os.stat(path).st_size
    except OSError:  # not begun, renamed just now, or a path too long to be named at once
        return 0
