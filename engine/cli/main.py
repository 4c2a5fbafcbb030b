"""The `linnet` command: finds the sub-command, runs it, and turns errors into one line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

# One file a sub-command, imported when asked for; its docstring's first line is its help.
COMMANDS = ("generate", "inspect", "tokenize", "quantize")
BAD_INPUT, INTERRUPTED = 2, 130


class Command(Protocol):
    __doc__: str | None

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the sub-command's arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit status. Errors are raised."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `linnet ARGUMENTS` (the process's own by default); returns the exit status.

    0 for success, 2 for bad input with one line on stderr, 130 for Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _parser(argv)
    try:
        arguments = parser.parse_args(argv)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our text has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        print(f"linnet: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    return status


def generate() -> int:
    """The `generate` command: `linnet generate`."""
    return main(["generate", *sys.argv[1:]])


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; sub-commands that `argv` does not ask for are left out, and not imported."""
    from linnet import __version__

    parser = argparse.ArgumentParser(
        prog="linnet", description="A small, fast LLM inference engine.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"linnet {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    wanted = argv[:1] if argv and argv[0] in COMMANDS else COMMANDS
    for name in wanted:
        command = cast(Command, importlib.import_module(f"linnet.engine.cli.{name}"))
        help = (command.__doc__ or "").splitlines()[0]
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        command.configure(sub)
        sub.set_defaults(run=command.run)
    return parser


def _one_line(error: BaseException) -> str:
    """What, where and why, without line breaks."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename!r}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
