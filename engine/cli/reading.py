"""Texts that a command is given: in files, through stdin, or as arguments."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

MOST_BYTES = 256 << 20  # so that /dev/zero ends, too
ESCAPE = re.compile(rb"""\\(?:x([0-9A-Fa-f]{2})|([\\'"ntr]))""")
MEANINGS = {b"n": b"\n", b"t": b"\t", b"r": b"\r"}


def add_escape(parser: argparse.ArgumentParser) -> None:
    """Whether `Parser` reads escapes."""
    parser.add_argument(
        "-e", "--escape", action=argparse.BooleanOptionalAction, default=True,
        help=r"whether \n, \t, \xHH and others in PROMPT and TEXT are what they stand for",
    )  # fmt: skip


def read_text(path: str | None) -> str:
    """The text in a file, of stdin for None or "-".

    Raises OSError, and ValueError if it is not UTF-8 or has more than 256 MiB.
    """
    if path is None or path == "-":
        name = "stdin"
        if sys.stdin is None:
            raise ValueError("stdin is closed: there is no text to read")
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
    else:
        name = repr(path)
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{name} has more than {MOST_BYTES >> 20} MiB of text")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text in UTF-8: {error}") from error


def read_prompt(path: str | None) -> str:
    """`read_text` without its last line feed, with which editors and `echo` end what they write."""
    return read_text(path).removesuffix("\n")


def unescaped(text: str) -> str:
    r"""\n, \t, \r, \\, \' and \" for what they mean, \xHH for a byte; others are left alone."""

    def meaning(found: re.Match[bytes]) -> bytes:
        number, letter = found.groups()
        return bytes.fromhex(number.decode()) if number else MEANINGS.get(letter, letter)

    data = ESCAPE.sub(meaning, text.encode(errors="surrogateescape"))
    return data.decode(errors="surrogateescape")
