'''Messages of several lines, as they are typed: `\\` at the end of a line, or """ around them.'''

from __future__ import annotations

QUOTES = '"""'
PROMPT, GOES_ON = "> ", ". "  # before the first line, and before others


def begun(text: str) -> str | None:
    """What the next line is added to; None where the text is complete."""
    if text.startswith(QUOTES):
        return None if _is_quoted(text) else f"{text}\n"
    return f"{text[:-1]}\n" if text.endswith("\\") else None


def quoted(text: str) -> str | None:
    """What is between the quotes, without the line feeds beside them; None without quotes."""
    if not _is_quoted(text):
        return None
    inner = text.rstrip()[len(QUOTES) : -len(QUOTES)]
    return inner.removeprefix("\n").removesuffix("\n")


def _is_quoted(text: str) -> bool:
    text = text.rstrip()
    return text.startswith(QUOTES) and text.endswith(QUOTES) and len(text) >= 2 * len(QUOTES)
