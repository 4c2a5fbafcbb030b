"""What an answer is made of, and what a format has to do to tell it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, Protocol

from linnet.engine.chat.formats.grammar import Lark
from linnet.engine.chat.formats.schemas import Tool

ToolCall = dict[str, Any]  # {"type": "function", "function": {"name": ..., "arguments": ...}}
ToolSchemas = Sequence[Mapping[str, Any]]  # {"type": "function", "function": {...}} each


class CallPiece(NamedTuple):
    """Some of a call's arguments, as a text in JSON: the first with the `name`, and the last one
    `is_last`."""

    text: str
    name: str | None = None
    is_last: bool = False


class Part(NamedTuple):
    """Some of an answer, or all of it.

    `tool_calls`: those that are complete. `pieces`: where calls are told as they come, of those and
    of the one under way, which may never be complete.
    """

    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    pieces: tuple[CallPiece, ...] = ()

    @property
    def call_pieces(self) -> tuple[CallPiece, ...]:
        """Those of its calls, be each a whole one."""
        return self.pieces or tuple(map(whole_piece, self.tool_calls))

    @property
    def with_one_call(self) -> Part:
        """It up to the end of its first call."""
        n = next((n for n, piece in enumerate(self.pieces, 1) if piece.is_last), 0)
        return self._replace(tool_calls=self.tool_calls[:1], pieces=self.pieces[:n])

    @property
    def message(self) -> dict[str, Any]:
        """It as a message, to go on from."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [*self.tool_calls]
        return message


class Reader(Protocol):
    """Takes one answer, cut at its markers; each call gives back what has become certain."""

    def text(self, text: str) -> Part: ...

    def marker(self, marker: str) -> Part: ...

    @property
    def reasons(self) -> bool:
        """Whether what comes next is reasoning."""

    def finish(self, *, is_cut: bool) -> Part:
        """What is left. `is_cut`: the answer was ended by a limit, so a call that is not closed is
        none: its arguments may have gone on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an answer is to be. `shape`: the name of a grammar of its content. `tools`: those that
    may be called, `must_call`: and one of them must be, `several`: and several may be. `reasons`:
    whether it may reason before."""

    shape: str | None = None
    tools: Sequence[Tool] = ()
    must_call: bool = False
    several: bool = True
    reasons: bool = True


class Format(Protocol):
    """How a kind of model writes reasoning, content and tool calls."""

    @property
    def markers(self) -> Sequence[str]:
        """What divides an answer: control tokens, or text where the vocabulary has no such."""

    @property
    def reasoning(self) -> tuple[str, str] | None:
        """What opens it, and what closes it up to where the answer goes on, if there are such."""

    @property
    def begins_calls(self) -> Sequence[str]:
        """What a call may begin with."""

    @property
    def has_channels(self) -> bool:
        """Whether reasoning is a message among others, so that it is part of `grammar`."""

    @property
    def ends_reasoning(self) -> Sequence[str]:
        """Markers that do so, beside what closes it, and begin what follows."""

    def grammar(self, lark: Lark, wanted: Wanted, prompt: str) -> str | None:
        """That of an answer in which a shape or a call is wanted, but for reasoning between tags;
        None where nothing is. `prompt`: its end. Raises GrammarError."""

    def call_grammars(self, new: Callable[[], Lark], tools: Sequence[Tool]) -> Mapping[int, str]:
        """For text that is free until a call begins: by the token that does, the grammar of what
        follows, with that token; none where calls begin otherwise. `new`: makes a grammar. Raises
        GrammarError."""

    def reader(
        self, prompt: str, tools: ToolSchemas = (), *, held: Sequence[str] = ()
    ) -> Reader:  # fmt: skip
        """For the answer to a prompt, the end of which is enough. `tools`: those offered; of
        formats that do not tell text from numbers, their schemas do. `held`: of `begins_calls`,
        what is followed by nothing but a call, which can be told in pieces then."""


class Splitter:
    """Cuts a text that comes piece by piece at the markers in it."""

    def __init__(self, markers: Sequence[str]) -> None:
        self._markers, self._held = markers, ""
        longest_first = sorted(markers, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def push(self, text: str) -> list[tuple[str, bool]]:
        """The pieces that are complete, and whether each is a marker."""
        if not self._markers:
            return [(text, False)]
        pieces = self._pattern.split(self._held + text)  # every other one is a marker
        last = pieces[-1]
        n_held = max(
            n for marker in self._markers for n in range(len(marker)) if last.endswith(marker[:n])
        )
        pieces[-1], self._held = last[: len(last) - n_held], last[len(last) - n_held :]
        return [(piece, i % 2 == 1) for i, piece in enumerate(pieces) if piece]

    def finish(self) -> str:
        """What was held back, as the beginning of a marker perhaps."""
        held, self._held = self._held, ""
        return held


def joined(parts: Iterable[Part]) -> Part:
    """One part of many in a row."""
    parts = [*parts]
    pieces = [part.call_pieces for part in parts] if any(part.pieces for part in parts) else []
    return Part(
        "".join(part.reasoning for part in parts), "".join(part.content for part in parts),
        tuple(chain.from_iterable(part.tool_calls for part in parts)),
        tuple(chain.from_iterable(pieces)),
    )  # fmt: skip


class TextReader:
    """Reads an answer that is text, markers and all, piece by piece."""

    def __init__(self, format: Format, *, prompt: str = "", tools: ToolSchemas = ()) -> None:
        """`prompt`, `tools`: see `Format.reader`."""
        self._reader, self._splitter = format.reader(prompt, tools), Splitter(format.markers)

    def push(self, text: str) -> Part:
        """What has become certain with this piece."""
        pieces = self._splitter.push(text)
        return joined([self._marked(*piece) for piece in pieces])

    def finish(self, *, is_cut: bool = False) -> Part:
        """What is left; `is_cut`: see `Reader.finish`."""
        rest = self._reader.text(self._splitter.finish())
        return joined([rest, self._reader.finish(is_cut=is_cut)])

    def _marked(self, text: str, marks: bool) -> Part:
        return self._reader.marker(text) if marks else self._reader.text(text)


def read(
    format: Format, answer: str, *, prompt: str = "", tools: ToolSchemas = (), is_cut: bool = False
) -> Part:
    """A whole answer that is text; see `TextReader`."""
    reader = TextReader(format, prompt=prompt, tools=tools)
    return joined([reader.push(answer), reader.finish(is_cut=is_cut)])


def whole_piece(call: ToolCall) -> CallPiece:
    """A call in one piece."""
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    is_text = isinstance(arguments, str)
    text = arguments if is_text else json.dumps(arguments, ensure_ascii=False)
    return CallPiece(text, name, is_last=True)


def tool_call(name: str, arguments: object) -> ToolCall:
    """As messages have it; `arguments`: a dict, or the text that the model wrote for one."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}
