"""What Tab completes: commands, and what they take."""

from __future__ import annotations

from collections.abc import Iterable

from prompt_toolkit.completion import (
    CompleteEvent,
    Completer,
    Completion,
    PathCompleter,
)
from prompt_toolkit.document import Document

from linnet.engine.cli.repl.commands import COMMANDS, named
from linnet.engine.cli.repl.settings import NAMES, SWITCHES


class CommandCompleter(Completer):
    """Completes at the cursor, in a line that is a command."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        name, blank, rest = document.text_before_cursor.partition(" ")
        if not name.startswith("/") or "\n" in document.text:
            return
        if not blank:
            names = [f"{c.names[0]}{' ' if c.argument else ''}" for c in COMMANDS]
            yield from _words(name, names)
            return
        command = named(name)
        argument = command.argument if command else ""
        if "FILE" in argument:
            yield from self._paths.get_completions(Document(rest), event)
        elif "NAME" in argument:
            yield from _words(rest, NAMES.values())
        elif "on|off" in argument:
            yield from _words(rest, SWITCHES)


def _words(begun: str, words: Iterable[str]) -> Iterable[Completion]:
    for word in sorted(words):
        if word.startswith(begun):
            yield Completion(word, -len(begun))
