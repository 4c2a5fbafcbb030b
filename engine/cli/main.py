"""The `linnet` command: finds the sub-command, runs it, and turns errors into one line."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, cast

from linnet.engine.cli.interrupts import INTERRUPTED, in_order
from linnet.engine.cli.parser import Parser
from linnet.engine.cli.terminal import one_line

# One file a sub-command, imported when asked for; its docstring's first line is its help.
COMMANDS = (
    "generate", "chat", "inspect", "tokenize", "quantize", "bench", "tune", "perplexity", "logits",
)  # fmt: skip
BAD_INPUT = 2


class Command(Protocol):
    __doc__: str | None

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the sub-command's arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit status. Errors are raised."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `linnet ARGUMENTS` (the process's own by default); returns the exit status.

    0 for success, 1 where a check finds something, 2 for bad input with one line on stderr, 130
    for Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy starts threads that nothing uses
    try:
        _open_output()
        arguments = _parsed(argv)
        with in_order():
            status: int = arguments.run(arguments)
            sys.stdout.flush()
    except SystemExit:  # argparse has shown the help or the version
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our text has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, MemoryError, RuntimeError, ImportError) as error:
        with suppress(OSError):  # a stderr that takes no more, either
            print(f"linnet: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    return status


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, `run` among them; only the command that is asked for is imported."""
    if argv and argv[0] in COMMANDS:
        command = _command(argv[0])
        parser = Parser(prog=f"linnet {argv[0]}", description=_help(command))
        command.configure(parser)
        parser.set_defaults(run=command.run)
        return parser.parse(argv[1:])
    parser = Parser(prog="linnet", description="A small, fast LLM inference engine.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        commands.add_parser(name, help=_help(_command(name)))
    parser.parse(argv)
    raise ValueError("COMMAND must come first (see linnet --help)")


def _command(name: str) -> Command:
    return cast(Command, importlib.import_module(f"linnet.engine.cli.{name}"))


def _help(command: Command) -> str:
    return (command.__doc__ or "").splitlines()[0]


def _open_output() -> None:
    """Have a stdout that takes any text, what its encoding lacks as a question mark, and a stderr,
    which may have been closed by whoever started us."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (it stays open)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
