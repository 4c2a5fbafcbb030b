"""Lines from a terminal, with editing and a history where the system has readline."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

MOST_LINES = 1000  # that the history file keeps


class Keyboard:
    """What somebody types; the history is kept from one session to the next."""

    def __init__(self) -> None:
        self._readline, self._path = _readline(), _history_path()
        if self._readline is None:
            return
        self._readline.set_auto_history(False)
        self._readline.set_history_length(MOST_LINES)
        with suppress(OSError):  # a session without a history is one as well
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            self._readline.read_history_file(self._path)

    def line(self, prompt: str) -> str:
        """The next line, without its end. Raises EOFError, KeyboardInterrupt, and ValueError for
        bytes that are no text.

        Without editing where stdout, which readline writes to, is no terminal.
        """
        if not sys.stdout.isatty():
            print(prompt, end="", file=sys.stderr, flush=True)
            prompt = ""
        try:
            return input(prompt)
        except UnicodeDecodeError as error:
            raise ValueError(f"the line is not text in UTF-8: {error}") from error

    def remember(self, line: str) -> None:
        """Add a line to the history, unless it is the last one there."""
        if self._readline is None or not line.strip():
            return
        with suppress(OSError, ValueError):  # ValueError: what is no UTF-8, here or there
            n = self._readline.get_current_history_length()
            if n and self._readline.get_history_item(n) == line:
                return
            self._readline.add_history(line)
            self._readline.append_history_file(1, self._path)


def _readline() -> ModuleType | None:
    try:
        import readline  # gives `input` its editing
    except ImportError:
        return None
    return readline if hasattr(readline, "append_history_file") else None


def _history_path() -> Path:
    """~/.local/state/linnet/history, or where XDG_STATE_HOME says."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "linnet" / "history"
