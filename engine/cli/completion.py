"""`linnet completion`: what a shell is to source, so that Tab completes commands and flags."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable
from typing import Any

from linnet.engine.extras import installing

SHELLS = "bash", "zsh", "fish"
PROGRAMS = "linnet", "generate"
MISSING = f"completion needs a package of its own: {installing('completion')}"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to complete")


def run(arguments: argparse.Namespace) -> int:
    """Code on stdout."""
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError as error:
        raise ImportError(f"{MISSING} ({error})") from error
    print(shellcode(PROGRAMS, shell=arguments.shell), end="")
    return 0


def asked_about() -> str | None:
    """The word after `linnet` in the line that a shell asks about."""
    words = os.environ.get("COMP_LINE", "").split()
    return words[1] if len(words) > 1 else None


def complete(parser: argparse.ArgumentParser) -> None:
    """Tell a shell that asks, by argcomplete's variables, what may come next; ends the process."""
    from argcomplete import autocomplete

    autocomplete(
        parser, always_complete_options="long",
        default_completer=_files,  # type: ignore[arg-type]  # any callable will do
    )  # fmt: skip


def _files(prefix: str, action: argparse.Action, **_: Any) -> Iterable[str]:
    """The names of files, for values that are some."""
    from argcomplete.completers import FilesCompleter

    return FilesCompleter()(prefix) if re.search("FILE|DIR|MODEL|gguf", str(action.metavar)) else ()
