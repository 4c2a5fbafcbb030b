"""What somebody types at a terminal."""

from __future__ import annotations

import sys
from typing import Protocol

from linnet.engine.cli.repl.blocks import GOES_ON, PROMPT, begun
from linnet.engine.cli.terminal import has_cursor


class Keyboard(Protocol):
    """Where messages and commands come from."""

    can_edit: bool  # whether `text` can begin with one

    def text(self, given: str = "") -> str:
        """The next message or command, perhaps of several lines, as it was typed; it begins as
        `given`. Raises EOFError, KeyboardInterrupt, and ValueError for bytes that are no text."""


class Lines:
    """Lines as the terminal gives them, for one that cannot move its cursor, or where neither
    stdout nor stderr goes to it."""

    can_edit = False

    def text(self, given: str = "") -> str:
        text = self._line(PROMPT)
        while (so_far := begun(text)) is not None:
            text = so_far + self._line(GOES_ON)
        return text

    def _line(self, prompt: str) -> str:
        try:
            print(prompt, end="", file=sys.stderr, flush=True)
            return input()
        except KeyboardInterrupt:
            print(file=sys.stderr)  # what was typed is a line of its own
            raise
        except UnicodeDecodeError as error:
            raise ValueError(f"the line is not text in UTF-8: {error}") from error


def open_keyboard(*, history: bool) -> Keyboard:
    """The best that this terminal allows; `history`: whether to keep one in a file."""
    for stream in (sys.stdout, sys.stderr):
        if has_cursor(stream):
            from linnet.engine.cli.repl.editor import Editor  # imports what others do not need

            return Editor(stream, history=history)
    return Lines()
