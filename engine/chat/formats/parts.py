"""What an answer is made of, and what a format has to do to tell it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from linnet.engine.chat.formats.grammar import Lark, Tool

ToolCall = dict[str, Any]  # {"type": "function", "function": {"name": ..., "arguments": ...}}
ToolSchemas = Sequence[Mapping[str, Any]]  # {"type": "function", "function": {...}} each


class Part(NamedTuple):
    """Some of an answer, or all of it."""

    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

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

    def finish(self, *, is_cut: bool) -> Part:
        """What is left. `is_cut`: the answer was ended by a limit, so a call that is not closed is
        none: its arguments may have gone on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an answer is to be. `shape`: the name of a grammar of its content. `tools`: those that
    may be called, `must_call`: and one of them must be, `several`: and several may be."""

    shape: str | None = None
    tools: Sequence[Tool] = ()
    must_call: bool = False
    several: bool = True


class Format(Protocol):
    """How a kind of model writes reasoning, content and tool calls."""

    @property
    def markers(self) -> Sequence[str]:
        """What divides an answer: control tokens, or text where the vocabulary has no such."""

    @property
    def reasoning(self) -> tuple[str, str] | None:
        """The tags around it, if there are such."""

    def grammar(self, lark: Lark, wanted: Wanted, prompt: str) -> str | None:
        """That of an answer in which a shape or a call is wanted, but for reasoning between tags;
        None where nothing is. `prompt`: its end. Raises GrammarError."""

    def call_grammars(self, new: Callable[[], Lark], tools: ToolSchemas) -> Mapping[int, str]:
        """For text that is free until a call begins: by the token that does, the grammar of what
        follows, with that token; none where calls begin otherwise. `new`: makes a grammar. Raises
        GrammarError."""

    def reader(self, prompt: str, tools: ToolSchemas = ()) -> Reader:
        """For the answer to a prompt, the end of which is enough. `tools`: those offered; of
        formats that do not tell text from numbers, their schemas do."""


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
    reasoning, content, tool_calls = zip(Part(), *parts, strict=True)
    return Part("".join(reasoning), "".join(content), sum(tool_calls, ()))


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


def tool_call(name: str, arguments: object) -> ToolCall:
    """As messages have it; `arguments`: a dict, or the text that the model wrote for one."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}
