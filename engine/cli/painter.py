"""Answers on a terminal, their reasoning dim."""

from __future__ import annotations

import os
import sys

from linnet.engine.chat.formats.parts import Part
from linnet.engine.cli.terminal import write
from linnet.engine.running.generation import Chunk

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Painter:
    """Writes an answer to stdout; on a terminal that shows colours its reasoning is dim."""

    def __init__(self) -> None:
        self._is_on = _has_colours()
        self._is_dim = False

    def write(self, chunk: Chunk) -> None:
        """See `write`. Markers are as what is before them."""
        part = chunk.part or Part()
        if self._is_on and (part.reasoning or part.content or part.tool_calls):
            self._dim(bool(part.reasoning) and not part.content)
        write(chunk.text)

    def end(self) -> None:
        """Nothing is dim from here on."""
        self._dim(False)

    def _dim(self, is_dim: bool) -> None:
        if is_dim != self._is_dim:
            self._is_dim = is_dim
            print(DIM if is_dim else PLAIN, end="", flush=True)


def _has_colours() -> bool:
    """Whether stdout is a terminal that is to have them: https://no-color.org"""
    is_off = os.environ.get("NO_COLOR") or os.environ.get("TERM", "") in ("", "dumb")
    return sys.stdout.isatty() and not is_off
