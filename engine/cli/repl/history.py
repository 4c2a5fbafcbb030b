"""What was typed, kept from one session to the next for its owner alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.history import History

MOST_ENTRIES = 1000
LONGEST = 4096  # characters of an entry; what is pasted may be more, and is for this session


class HistoryFile(History):
    """A line of JSON for each entry. A session without a history is one as well: what goes wrong
    with the file is no error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """The latest first."""
        lines: list[str] = []
        with suppress(OSError):
            lines = self._path.read_text("utf-8", "replace").removesuffix("\n").split("\n")
            if len(lines) > 2 * MOST_ENTRIES:
                lines = lines[-MOST_ENTRIES:]
                self._shorten(lines)
        return [_entry(line) for line in reversed(lines[-MOST_ENTRIES:]) if line]

    def store_string(self, string: str) -> None:
        if not string.strip() or len(string) > LONGEST:
            return
        with suppress(OSError, UnicodeEncodeError):  # the latter: what is no UTF-8
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            data = f"{json.dumps(string, ensure_ascii=False)}\n".encode()
            self._write(self._path, data, os.O_APPEND)

    def _shorten(self, lines: list[str]) -> None:
        beside = self._path.with_suffix(f".{os.getpid()}")
        self._write(beside, "".join(f"{line}\n" for line in lines).encode(), os.O_TRUNC)
        beside.replace(self._path)

    @staticmethod
    def _write(path: Path, data: bytes, mode: int) -> None:
        with open(os.open(path, os.O_CREAT | os.O_WRONLY | mode, 0o600), "wb") as file:
            file.write(data)


def history_path() -> Path:
    """~/.local/state/linnet/history, or where XDG_STATE_HOME says."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "linnet" / "history"


def _entry(line: str) -> str:
    """What a line stands for: itself, where it is no JSON text, as older versions wrote them."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return line
    return entry if isinstance(entry, str) else line
