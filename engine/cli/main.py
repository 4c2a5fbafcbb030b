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

# Each is a file beside this one, imported when it is the one to run; its help is here, so that
# `linnet --help` imports none of them.
COMMANDS = {
    "generate": "Continue a prompt with a model, streaming the text to stdout.",
    "chat": "Talk with a model: a line in, an answer out.",
    "serve": "Serve a model to programs that speak OpenAI's API, and to many at once.",
    "inspect": "Show what is in a GGUF file: metadata, tensors, types and sizes.",
    "tokenize": "Print a text's token ids, one list a line.",
    "quantize": "Quantise a model: write an F32, F16 or BF16 GGUF file in a smaller type.",
    "bench": "Measure speed: tokens a second and how near that is to what the machine can do.",
    "tune": "Measure the few numbers that depend on this machine, and keep what is faster.",
    "perplexity": "Measure how well a model predicts a text, or how far it is from another model.",
    "logits": "Print what a model predicts after a text: the likeliest tokens, or all logits.",
}
BAD_INPUT = 2


class Command(Protocol):
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
        command = cast(Command, importlib.import_module(f"linnet.engine.cli.{argv[0]}"))
        parser = Parser(prog=f"linnet {argv[0]}", description=COMMANDS[argv[0]])
        command.configure(parser)
        parser.set_defaults(run=command.run)
        return parser.parse(argv[1:])
    parser = Parser(prog="linnet", description="A small, fast LLM inference engine.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, help in COMMANDS.items():
        commands.add_parser(name, help=help)
    parser.parse(argv)
    raise ValueError("COMMAND must come first (see linnet --help)")


def _open_output() -> None:
    """Open stdout and stderr where the parent process closed them, and have stdout write "?" for
    characters that its encoding lacks."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (it stays open)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
