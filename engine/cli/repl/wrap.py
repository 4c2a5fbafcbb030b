"""Word wrap of a text that comes piece by piece."""

from __future__ import annotations

from collections.abc import Callable

from prompt_toolkit.utils import get_cwidth

TAB = 8  # columns between tab stops


class WordWrap:
    """Breaks lines of a terminal between words, and longer words where a line is full.

    A word is shown as it comes; where it turns out not to fit, it is taken back and written on the
    next line. The last column stays empty: terminals differ in where their cursor is behind it.
    """

    def __init__(self, columns: Callable[[], int]) -> None:
        """`columns`: how many the terminal has, asked anew each time."""
        self._columns, self._n_columns = columns, columns()
        self._at = 0  # the cursor's column
        self._word = ""  # what is shown of it, where it may still be taken back

    def push(self, text: str) -> str:
        """What to write to the terminal for it; `text`: without control characters but tabs and
        line feeds."""
        self._resize(self._columns())
        return "".join(map(self._shown, text))

    def settle(self) -> None:
        """What is shown stays where it is, as where the style changes amid a word."""
        self._word = ""

    def _resize(self, n_columns: int) -> None:
        """Terminals break lines that have become too long."""
        if n_columns != self._n_columns:
            self._n_columns = n_columns
            self._at %= n_columns
            self.settle()

    def _shown(self, character: str) -> str:
        if character == "\n":
            self._at, self._word = 0, ""
            return character
        if character in " \t":
            return self._blank(1 if character == " " else TAB - self._at % TAB)
        width = get_cwidth(character)
        if width > 1:  # as between ideographs, there may be a break before and after
            self._word = ""
        broken = self._break() if self._at + width >= self._n_columns else ""
        self._at += width
        if width == 1 or self._word:  # wide ones are whole, and marks belong to what they follow
            self._word += character
        return broken + character

    def _blank(self, width: int) -> str:
        """Blanks at the end of a line are left out."""
        self._word = ""
        width = min(width, self._n_columns - 1 - self._at)
        self._at += max(width, 0)
        return " " * width

    def _break(self) -> str:
        """Go on in the next line, with the word so far unless it fills this one."""
        width = get_cwidth(self._word)
        if width in (0, self._at):
            self._at, self._word = 0, ""
            return "\n"
        self._at = width
        return f"\x1b[{width}D\x1b[K\n{self._word}"
