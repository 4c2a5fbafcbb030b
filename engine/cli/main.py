"""The `linnet` command: finds the sub-command, runs it, and turns errors into one line."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast

from linnet import __version__
from linnet.engine.cli import logs
from linnet.engine.cli.interrupts import INTERRUPTED, in_order
from linnet.engine.cli.terminal import one_line

if TYPE_CHECKING:
    import argparse

    from linnet.engine.cli.parser import Parser

# Each is a file beside this one, imported when it is the one to run; its help is here, so that
# `linnet --help` imports none of them.
COMMANDS = {
    "generate": "Answer a prompt, or continue it, streaming the text to stdout.",
    "chat": "Talk with a model: a line in, an answer out.",
    "run": "Answer what is given, as generate does, or talk, as chat does.",
    "serve": "Serve a model to programs that speak OpenAI's API, and to many at once.",
    "batch": "Answer a file of requests, as OpenAI's batches have them; stopped, go on.",
    "list": "List the models that were downloaded, with their types and sizes.",
    "pull": "Download models from the Hugging Face hub, or a URL.",
    "rm": "Remove models that were downloaded.",
    "inspect": "Show what is in a GGUF file: metadata, tensors, types and sizes.",
    "tokenize": "Print a text's token ids, one list a line.",
    "quantize": "Quantise a model: write an F32, F16 or BF16 GGUF file in a smaller type.",
    "bench": "Measure speed: tokens a second and how near that is to what the machine can do.",
    "tune": "Measure the few numbers that depend on this machine, and keep what is faster.",
    "dump": "Print the code of a kernel: as IR or assembly, for any instruction set.",
    "perplexity": "Measure how well a model predicts a text, or how far it is from another model.",
    "logits": "Print what a model predicts after a text: the likeliest tokens, or all logits.",
    "completion": "Print what makes a shell complete these commands and their flags.",
}
ALIASES = {"show": "inspect", "ls": "list"}  # as ollama has them
TOP = "linnet COMMAND --help, or linnet help COMMAND, tells of a command's flags."
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
        if "_ARGCOMPLETE" in os.environ:
            _complete(argv)
        if _asks_for_version(argv):
            print(f"linnet {__version__}", flush=True)
            return 0
        arguments = _parsed(argv)
        if arguments.verbose:
            logs.show()
        with in_order():
            status: int = arguments.run(arguments)
            sys.stdout.flush()
    except SystemExit:  # argparse has shown the help or the version
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our text has enough
        return 0
    except (ValueError, OSError, MemoryError, RuntimeError, ImportError) as error:
        with suppress(OSError):  # a stderr that takes no more, either
            print(f"linnet: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    finally:
        _give_up_unwritten()
    return status


def _asks_for_version(argv: Sequence[str]) -> bool:
    """Before anything is imported that takes time."""
    command = argv[:1] if argv and argv[0] in COMMANDS else []
    return argv in (["version"], [*command, "--version"])


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, `run` among them; only the command that is asked for is imported.

    Raises ValueError; SystemExit once the help is shown.
    """
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    name = ALIASES.get(argv[0], argv[0]) if argv else "--help"
    if name in COMMANDS:
        return command_parser(name).parse(argv[1:])
    if name == "--help" or name == "-h":
        top_parser().parse(["--help"])
    if name.startswith("-"):
        raise ValueError("COMMAND must come first (see linnet --help)")
    if name.endswith(".gguf"):
        raise ValueError(f"{name!r} is a model; a command comes first, as in linnet chat -m FILE")
    from linnet.engine.cli.guesses import close

    likely, shown = close(name, COMMANDS), name[:100]
    hint = f"close: {', '.join(likely)}" if likely else f"there are {', '.join(COMMANDS)}"
    raise ValueError(f"there is no command {shown!r}; {hint} (see linnet --help)")


def _complete(argv: Sequence[str]) -> None:
    """Answer a shell, which asks what may come next; `argv` has `generate` where that is asked
    about and not `linnet`. Ends the process."""
    from linnet.engine.cli.completion import asked_about, complete

    complete(command_parser(argv[0]) if argv else top_parser(asked_about()))


def command_parser(name: str) -> Parser:
    """The parser of a command, which it imports; arguments have `run`."""
    from linnet.engine.cli.examples import EXAMPLES
    from linnet.engine.cli.help_format import arrange, ending
    from linnet.engine.cli.parser import Parser

    command = cast(Command, importlib.import_module(f"linnet.engine.cli.{name}"))
    parser = Parser(prog=f"linnet {name}", description=COMMANDS[name])
    command.configure(parser)
    arrange(parser)
    parser.epilog = ending(parser.epilog, EXAMPLES.get(name, ()))
    parser.set_defaults(run=command.run)
    return parser


def top_parser(command: str | None = None) -> Parser:
    """That of `linnet` alone; it knows the commands and, of one of them, the flags."""
    import argparse

    from linnet.engine.cli.help_format import OTHERS, ending
    from linnet.engine.cli.parser import Parser

    about = "A small, fast LLM inference engine."
    parser = Parser(prog="linnet", description=about, epilog=ending(f"{TOP} {OTHERS}", ()))
    parser.add_argument("--version", action="store_true", help="show the version")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", parser_class=argparse.ArgumentParser
    )
    for name, help in COMMANDS.items():
        commands.add_parser(name, help=help)
    if command in COMMANDS:
        commands.choices[command] = command_parser(command)
    return parser


def _open_output() -> None:
    """Open stdout and stderr where the parent process closed them, and have stdout write "?" for
    characters that its encoding lacks."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (it stays open)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _give_up_unwritten() -> None:
    """Drop what stdout and stderr do not take: Python would try again as it ends, and make the
    status 120 where that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
