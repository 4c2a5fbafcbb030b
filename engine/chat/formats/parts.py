"""What an answer is made of, and what a format has to do to tell it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

ToolCall = dict[str, Any]  # {"type": "function", "function": {"name": ..., "arguments": ...}}


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

    def finish(self) -> Part: ...


class Format(Protocol):
    """How a kind of model writes reasoning, content and tool calls."""

    @property
    def markers(self) -> Sequence[str]:
        """What divides an answer: control tokens, or text where the vocabulary has no such."""

    def reader(self, prompt: str) -> Reader:
        """For the answer to a prompt, the end of which is enough."""


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


def read(format: Format, answer: str, *, prompt: str = "") -> Part:
    """A whole answer that is text, markers and all; `prompt`: see `Format.reader`."""
    reader, splitter = format.reader(prompt), Splitter(format.markers)
    pieces = [*splitter.push(answer), (splitter.finish(), False)]
    parts = [reader.marker(text) if marks else reader.text(text) for text, marks in pieces]
    return joined([*parts, reader.finish()])


def tool_call(name: str, arguments: object) -> ToolCall:
    """As messages have it; `arguments`: a dict, or the text that the model wrote for one."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def parsed(text: str) -> Any:
    """A value in JSON, or None."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
