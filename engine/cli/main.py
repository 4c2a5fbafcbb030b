"""The `linnet` command: finds the sub-command, runs it, and turns errors into one line."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

from linnet.engine.cli.interrupts import INTERRUPTED, in_order
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
        arguments = _parser(argv).parse_args(argv)
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
        print(f"linnet: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    return status


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are an error like others: one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; sub-commands that `argv` does not ask for are left out, and not imported."""
    from linnet import __version__

    parser = _Parser(
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


def _open_output() -> None:
    """Have a stdout that takes any text; what its encoding lacks becomes a question mark."""
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (it stays open)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
