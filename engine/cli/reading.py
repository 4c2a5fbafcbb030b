"""Texts that a command is given in files."""

from __future__ import annotations

import sys
from pathlib import Path

MOST_BYTES = 256 << 20  # so that /dev/zero ends, too


def read_text(path: str | None) -> str:
    """The text in a file, of stdin for None. Raises OSError, and ValueError if it is not UTF-8."""
    if path is None:
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
    else:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    name = "stdin" if path is None else repr(path)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{name} has more than {MOST_BYTES >> 20} MiB of text")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text in UTF-8: {error}") from error
