"""What the command says to the shell when it ends."""

from __future__ import annotations

DONE = 0
FAILED = 1  # some of the work failed; the rest is done
USAGE = 2  # nothing was begun: the command was not understood or refused
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
