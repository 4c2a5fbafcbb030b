"""Write man pages of `linnet` and its commands, made of what `--help` is made of.

    python scripts/man_pages.py FOLDER

`man FOLDER/linnet-chat.1` shows one. Pages for packages go to share/man/man1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from linnet import __version__
from linnet.engine.cli.examples import EXAMPLES
from linnet.engine.cli.help_format import OTHERS, VARIABLES
from linnet.engine.cli.main import COMMANDS, command_parser, top_parser


def main(argv: list[str]) -> None:
    """Write the pages into the folder, which is made if need be."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("folder", type=Path, metavar="FOLDER")
    folder: Path = arguments.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (folder / f"{name}.1").write_text(text)


def pages() -> Iterator[tuple[str, str]]:
    """Names of pages, and what is in them."""
    yield "linnet", page("linnet", top_parser(), sorted(COMMANDS))
    for command in COMMANDS:
        yield f"linnet-{command}", page(f"linnet-{command}", command_parser(command), [])


def page(name: str, parser: argparse.ArgumentParser, others: list[str]) -> str:
    """A page in the language of man(7). `others`: commands that have a page of their own."""
    about = parser.description or ""
    usage = parser.format_usage().removeprefix("usage: ").removeprefix(parser.prog)
    lines = [
        f'.TH {escaped(name).upper()} 1 "" "linnet {__version__}" "linnet"',
        ".SH NAME", f"{escaped(name)} \\- {escaped(about[0].lower() + about[1:].rstrip('.'))}",
        ".SH SYNOPSIS", f".B {escaped(parser.prog)}", escaped(" ".join(usage.split())),
        ".SH DESCRIPTION", escaped(about), ".PP", escaped(f"{VARIABLES} {OTHERS}"),
    ]  # fmt: skip
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if actions:
            lines.append(f".SH {escaped((group.title or 'flags').upper())}")
            for action in actions:
                lines += entry(parser, action)
    if examples := EXAMPLES.get(name.removeprefix("linnet-"), ()):
        lines += [".SH EXAMPLES", ".nf", *map(escaped, examples), ".fi"]
    seen = ", ".join(f"linnet-{other}(1)" for other in others) or "linnet(1)"
    return "\n".join([*lines, ".SH SEE ALSO", escaped(seen), ""])


def entry(parser: argparse.ArgumentParser, action: argparse.Action) -> list[str]:
    """What goes with one flag, or with what goes without one; of commands, each."""
    if isinstance(action, argparse._SubParsersAction):
        return [line for name, help in COMMANDS.items() for line in (
            ".TP", f".B {escaped(name)}", escaped(help),
        )]  # fmt: skip
    formatter = parser._get_formatter()
    called = formatter._format_action_invocation(action)
    return [".TP", f".B {escaped(called)}", escaped(formatter._expand_help(action))]


def escaped(text: str) -> str:
    """As text, whatever a line begins with."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in text.split("\n"))


if __name__ == "__main__":
    main(sys.argv[1:])
