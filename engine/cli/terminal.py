"""Untrusted text on a terminal, which would obey control characters: they become escapes."""

from __future__ import annotations

import re
import sys
from contextlib import suppress

from linnet.engine.cli import interrupts

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and line feeds


def write(text: str) -> None:
    """To stdout, at once; a terminal is shown escape sequences and not given them to obey.

    Raises KeyboardInterrupt anew where one has been lost on the way here.
    """
    print(visible(text) if sys.stdout.isatty() else text, end="", flush=True)
    interrupts.check()


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
