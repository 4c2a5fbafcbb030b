"""An answer as blocks in a row, as wire formats with typed content have it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from linnet.engine.chat.formats.parts import Part
from linnet.engine.running.generation import Chunk

Kind = Literal["reasoning", "text", "call"]
BEGUN: Final = "begun"
MORE: Final = "more"
ENDED: Final = "ended"


@dataclass(slots=True)
class Block:
    """A run of an answer that is of one kind, or one call.

    `text`: what there is of it; of a call its arguments, in JSON. `name`: of the function called.
    `status`: "incomplete" for what a limit, a stop string or an error has cut off.
    """

    index: int
    kind: Kind
    name: str = ""
    text: str = ""
    status: Literal["in_progress", "completed", "incomplete"] = "in_progress"
    id: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def is_no_call(self) -> bool:
        """Whether it would have been one."""
        return self.kind == "call" and self.status != "completed"


class Step(NamedTuple):
    """What has come of a block: it has BEGUN, MORE of its text, or it has ENDED."""

    what: str
    block: Block
    text: str = ""


class Blocks:
    """Those of one answer, while its chunks come. `n_reasoning`: tokens that gave reasoning."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self.n_reasoning = 0
        self._open: Block | None = None

    @property
    def has_calls(self) -> bool:
        return any(block.kind == "call" and not block.is_no_call for block in self.all)

    def push(self, chunk: Chunk) -> list[Step]:
        """Take the next chunk; the last one ends the last block."""
        part = Part(content=chunk.text) if chunk.part is None else chunk.part
        self.n_reasoning += is_reasoning(chunk)
        return [*self._steps(part, chunk.finish_reason)]

    def cut(self) -> None:
        """Nothing follows, though the answer has no end."""
        if self._open is not None:
            self._open.status = "incomplete"

    def _steps(self, part: Part, finish_reason: str | None) -> Iterator[Step]:
        yield from self._text("reasoning", part.reasoning)
        yield from self._text("text", part.content)
        for piece in part.call_pieces:
            if piece.name is not None:
                yield from self._begin("call", piece.name)
            if piece.text:
                yield from self._more(piece.text)
            if piece.is_last:
                yield from self._end()
        is_call = self._open is not None and self._open.kind == "call"
        if finish_reason == "length" or (finish_reason is not None and is_call):
            self.cut()
        if finish_reason is not None:
            yield from self._end()

    def _text(self, kind: Kind, text: str) -> Iterator[Step]:
        if self._open is None or self._open.kind != kind:
            text = text.lstrip() if self.all else text  # white space between blocks is in none
            if text:
                yield from self._begin(kind)
        if text:
            yield from self._more(text)

    def _begin(self, kind: Kind, name: str = "") -> Iterator[Step]:
        yield from self._end()
        self._open = Block(len(self.all), kind, name)
        self.all.append(self._open)
        yield Step(BEGUN, self._open)

    def _more(self, text: str) -> Iterator[Step]:
        block = self.all[-1]
        block.text += text
        yield Step(MORE, block, text)

    def _end(self) -> Iterator[Step]:
        block, self._open = self._open, None
        if block is not None:
            if block.status == "in_progress":
                block.status = "completed"
            yield Step(ENDED, block)


def is_reasoning(chunk: Chunk) -> bool:
    """Whether it has a token that gave reasoning."""
    return chunk.token_id is not None and chunk.part is not None and bool(chunk.part.reasoning)
