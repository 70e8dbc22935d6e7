"""The command ``multitask``: finds the command that was typed, runs it, turns what happens into an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from multitask.cli import args, exit_codes
from multitask.cli.output import Output

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``multitask ARGV…`` and return its exit code: 0 done, 1 some failed, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    out = Output()
    try:
        return _run(words, out)
    except args.Leave as leave:
        return leave.code
    except BrokenPipeError:
        # Whoever read our output has seen enough (| head): that is no failure.
        return exit_codes.DONE
    except KeyboardInterrupt:
        out.talk("multitask: interrupted")
        return exit_codes.INTERRUPTED
    finally:
        out.close()


def _run(words: list[str], out: Output) -> int:
    name, rest = args.command(words, out)
    command = args.load(name)
    options = args.parse(name, command, rest, out)
    out.json = bool(getattr(options, "json", False))
    return command.run(options, out)
