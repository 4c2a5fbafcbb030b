"""Answers on a terminal: words wrapped, reasoning dim."""

from __future__ import annotations

import sys
from functools import partial

from linnet.engine.chat.formats.parts import Part
from linnet.engine.cli.terminal import DIM, PLAIN, columns, has_cursor, has_styles, put, visible
from linnet.engine.running.generation import Chunk


class Painter:
    """Writes an answer to stdout: on a terminal with words wrapped and, where it shows styles, its
    reasoning dim; elsewhere as it is."""

    def __init__(self, *, wrap: bool = True) -> None:
        """`wrap`: whether words are wrapped where they can be."""
        self._is_terminal, self._has_styles = sys.stdout.isatty(), has_styles(sys.stdout)
        self._is_dim = False
        self._ends_line = False
        self._wrap = None
        if wrap and has_cursor(sys.stdout):
            from linnet.engine.cli.repl.wrap import WordWrap  # imports what pipes do not need

            self._wrap = WordWrap(partial(columns, sys.stdout))

    def write(self, chunk: Chunk) -> None:
        """See `terminal.write`. Markers are as what is before them."""
        part = chunk.part or Part()
        if self._has_styles and (part.reasoning or part.content or part.tool_calls):
            self._dim(bool(part.reasoning) and not part.content)
        text = visible(chunk.text) if self._is_terminal else chunk.text
        if text:
            self._ends_line = text.endswith("\n")
        put(self._wrap.push(text) if self._wrap else text)

    def stop(self) -> None:
        """Nothing is dim from here on."""
        self._dim(False)

    def end(self) -> None:
        """The answer is complete, and so is its last line."""
        self.stop()
        put("" if self._ends_line else "\n")

    def _dim(self, is_dim: bool) -> None:
        if is_dim != self._is_dim:
            self._is_dim = is_dim
            if self._wrap:
                self._wrap.settle()
            print(DIM if is_dim else PLAIN, end="", flush=True)
