"""Text on a terminal: what is not ours cannot command it, and what is ours has a style."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from textwrap import TextWrapper
from typing import TextIO

from linnet.engine.cli import interrupts

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and line feeds
DIM, RED, GREEN, PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[1;32m", "\x1b[0m"


def write(text: str) -> None:
    """To stdout, at once; a terminal is shown escape sequences and not given them to obey.

    Raises KeyboardInterrupt anew where one has been lost on the way here.
    """
    put(visible(text) if sys.stdout.isatty() else text)


def put(text: str) -> None:
    """To stdout, as it is; see `write`."""
    print(text, end="", flush=True)
    interrupts.check()


def note(text: str, style: str = DIM) -> None:
    """A message to stderr; a terminal whose cursor moves has it in words and, where it shows
    styles, in that one."""
    if sys.stderr.isatty():
        text = visible(text)
    if has_cursor(sys.stderr):
        width = max(columns(sys.stderr) - 1, 1)
        wrap = TextWrapper(width, break_on_hyphens=False, break_long_words=False).fill
        text = "\n".join(map(wrap, text.split("\n")))
    if text and has_styles(sys.stderr):
        text = f"{style}{text}{PLAIN}"
    print(text, file=sys.stderr, flush=True)


def has_cursor(stream: TextIO) -> bool:
    """Whether it is a terminal whose cursor can be moved."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def has_styles(stream: TextIO) -> bool:
    """Whether it is a terminal that is to show colours: https://no-color.org"""
    return has_cursor(stream) and not os.environ.get("NO_COLOR")


def columns(stream: TextIO) -> int:
    """How many there are at this moment; 80 where nobody knows."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:  # no terminal, or, as io.UnsupportedOperation, not even a file
        return 80


def visible(text: str) -> str:
    """The text with control characters written out, but for tabs and line feeds."""
    return CONTROLS.sub(lambda found: _escaped(found[0]), text)


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """In place of `warnings.showwarning`, which adds a line of our code."""
    with suppress(OSError):  # as that does, too: a warning is no reason to end
        print(f"linnet: {one_line(message)}", file=sys.stderr, flush=True)


def one_line(error: BaseException | str) -> str:
    """What, where and why, without line breaks or anything else that a terminal would obey."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename!r}: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
