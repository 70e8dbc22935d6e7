"""``multitask.note(text)``: a task's last words, kept for the case that its worker dies.

Inside a worker ``sink`` is set by the worker's main loop to a function that writes the bytes where the
submitting process finds them after a death; elsewhere it is None and ``note`` does nothing.
"""

from __future__ import annotations

from collections.abc import Callable

LIMIT = 200  # bytes of UTF-8

sink: Callable[[bytes], None] | None = None


def note(text: str) -> None:
    """Leave *text* behind: should this worker die during the task, ``WorkerLost.note`` holds it.

    The last note counts; of a long one the first 200 bytes. Costs well under a microsecond; does nothing outside of
    a worker.
    """
    if sink is None:
        return
    data = str(text).encode("utf-8", "backslashreplace")
    if len(data) > LIMIT:
        # Cut between characters, so that the reader can decode what is left.
        data = data[:LIMIT].decode("utf-8", "ignore").encode("utf-8")
    sink(data)
