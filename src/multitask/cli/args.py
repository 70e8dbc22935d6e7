"""What was typed: the list of commands, their options, the short and the long help."""

from __future__ import annotations

import argparse
import importlib
from typing import Any, NoReturn, Protocol, cast

from multitask.cli import exit_codes
from multitask.cli.output import Output

# A command is the module of its name in .commands; the line is what the list of commands says about it.
COMMANDS = {
    "copy": "copy a folder with all workers at once",
    "map": "call a Python function with every line of a file",
    "doctor": "say what of multitask works on this machine",
}

SCREEN = """\
multitask: many things at once, and nothing lost

  example: multitask copy photos backup

{commands}

  multitask COMMAND -h       one screen about a command
  multitask COMMAND --help   everything about it
  multitask --version
"""


class Command(Protocol):
    """What a module in ``.commands`` has."""

    SCREEN: str  # -h
    DETAILS: str  # what --help says besides the options

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, options: argparse.Namespace, out: Output) -> int: ...


class Leave(Exception):
    """The command is over before it has begun: help was asked for, or it was not understood."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def command(words: list[str], out: Output) -> tuple[str, list[str]]:
    """Split into the name of a command and its own words."""
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(len(name) for name in COMMANDS)
        listed = "\n".join(f"  multitask {name:<{width}}   {line}" for name, line in COMMANDS.items())
        out.data(SCREEN.format(commands=listed).rstrip())
        raise Leave(exit_codes.DONE if words else exit_codes.USAGE)
    if words[0] in ("--version", "-V"):
        from multitask import __version__

        out.data(f"multitask {__version__}")
        raise Leave(exit_codes.DONE)
    name = words[0]
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean `multitask {close[0]}`?" if close else "`multitask -h` lists the commands"
        out.error(f"there is no command {name!r}", fix=meant)
        raise Leave(exit_codes.USAGE)
    return name, words[1:]


def load(name: str) -> Command:
    """The module of a command; loaded only now, so that no command pays for another."""
    return cast(Command, importlib.import_module(f"multitask.cli.commands.{name}"))


def parse(name: str, command: Command, words: list[str], out: Output) -> argparse.Namespace:
    """The options of one command; raises Leave after help or on a mistake."""
    parser = _Parser(name, command, out)
    command.add_arguments(parser)
    return parser.parse_args(words)


class _Parser(argparse.ArgumentParser):
    """argparse with a short -h, a long --help, and errors that end with a next step."""

    def __init__(self, name: str, command: Command, out: Output) -> None:
        super().__init__(
            prog=f"multitask {name}",
            add_help=False,
            allow_abbrev=False,
            epilog=command.DETAILS,
            formatter_class=_Formatter,
        )
        self._name, self._command, self._out = name, command, out
        self.add_argument("-h", action=_Say, text=lambda: command.SCREEN, out=out, help="one screen of help")
        self.add_argument("--help", action=_Say, text=self.format_help, out=out, help="this text")

    def error(self, message: str) -> NoReturn:
        self._out.error(message, command=self._name, fix=f"`multitask {self._name} -h` shows how it is used")
        raise Leave(exit_codes.USAGE)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        # With a width of its own argparse need not load shutil to ask the terminal.
        super().__init__(prog, width=100)


class _Say(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, text: Any, out: Output, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self._text, self._out = text, out

    def __call__(self, *ignored: object) -> None:
        self._out.data(self._text().rstrip())
        raise Leave(exit_codes.DONE)


def add_common(parser: argparse.ArgumentParser, kinds: tuple[str, ...], **kind: Any) -> None:
    """``--jobs --kind --json``: the same words with the same meaning for every command.

    The first of *kinds* is the default; *kind* changes what is said or done about it.
    """
    parser.add_argument("--jobs", type=positive, metavar="N", help="workers (default: the CPUs this process may use)")
    about: dict[str, Any] = {"default": kinds[0], "help": "what the workers are (default: %(default)s)", **kind}
    parser.add_argument("--kind", choices=kinds, **about)
    parser.add_argument("--json", action="store_true", help="one JSON object per line on stdout, each with a type")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return number


def not_negative(text: str) -> int:
    """A whole number of at least 0."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, not {text!r}")
    return number


def seconds(text: str) -> float:
    """A time above 0 in seconds."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return number
