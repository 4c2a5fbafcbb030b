"""Texts that a command is given: in files, through stdin, or as arguments."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
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
    """`read_text` without its last line feed, with which editors and `echo` end what they write; on
    Windows, with the carriage return that these put before it."""
    text = read_text(path)
    return text.removesuffix(os.linesep if text.endswith(os.linesep) else "\n")


def add_text(parser: argparse.ArgumentParser, what: str, file: str) -> None:
    """-p and -f, for `given_text`; `what` -p takes, and `file` -f."""
    parser.add_argument("-p", "--prompt", dest="prompt_text", metavar="TEXT", help=what)
    parser.add_argument("-f", "--file", metavar="FILE", help=file)


TEXTS = "prompt_text", "file"  # where arguments have what `add_text` has flags for


def given_text(arguments: argparse.Namespace, read: Callable[[str | None], str]) -> str:
    """The one text given: as PROMPT or TEXT, by a flag, or piped into stdin. `read`: how files and
    stdin are. Raises ValueError for none, or several, and what `read` raises."""
    given = [arguments.prompt, *(getattr(arguments, name) for name in TEXTS)]
    sources = [source for source in given if source is not None]
    if len(sources) == 1 and arguments.file is None and sources != ["-"]:
        return str(sources[0])
    piped = not sources and sys.stdin is not None and not sys.stdin.isatty()
    if len(sources) == 1 or piped:
        text = read(arguments.file)
        if text or not piped:
            return text
    raise ValueError("give one prompt: as PROMPT, with -p TEXT, in a file with -f FILE, or piped")


def unescaped(text: str) -> str:
    r"""\n, \t, \r, \\, \' and \" for what they mean, \xHH for a byte; others are left alone."""

    def meaning(found: re.Match[bytes]) -> bytes:
        number, letter = found.groups()
        return bytes.fromhex(number.decode()) if number else MEANINGS.get(letter, letter)

    data = ESCAPE.sub(meaning, text.encode(errors="surrogateescape"))
    return data.decode(errors="surrogateescape")
