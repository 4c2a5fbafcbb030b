"""Reasoning and calls between tags: <think> why </think> answer <tool_call> {...} </tool_call>."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from linnet.engine.chat.formats.parts import Part, ToolCall, parsed, tool_call

CONTENT, REASONING, CALL = range(3)

Pair = tuple[str, str]  # what opens, and what closes


@dataclass(frozen=True, slots=True)
class Tags:
    """`reasoning`, `calls`: their tags; None for what such a model does not write.

    A call is an object in JSON, with "name" and "arguments", or a list of those. What else stands
    between the tags is content, and so are they.
    """

    reasoning: Pair | None = None
    calls: Pair | None = None

    @property
    def markers(self) -> Sequence[str]:
        return (self.reasoning or ()) + (self.calls or ())

    def reader(self, prompt: str) -> TagReader:
        reasons = self.reasoning is not None and prompt.rstrip().endswith(self.reasoning[0])
        return TagReader(self, reasons=reasons)


class TagReader:
    """White space where a part begins or ends at a tag is left out."""

    def __init__(self, tags: Tags, *, reasons: bool) -> None:
        """`reasons`: whether the prompt has opened the reasoning."""
        self._reasoning: Final = tags.reasoning or ("", "")
        self._calls: Final = tags.calls or ("", "")
        self._state = REASONING if reasons else CONTENT
        self._after_tag = reasons  # and white space
        self._held = ""  # white space, before a tag perhaps
        self._call = ""

    def text(self, text: str) -> Part:
        if self._state == CALL:
            self._call += text
            return Part()
        text = self._held + (text.lstrip() if self._after_tag else text)
        given = text.rstrip()
        self._held = text[len(given) :]
        self._after_tag = self._after_tag and not given
        return Part(reasoning=given) if self._state == REASONING else Part(content=given)

    def marker(self, marker: str) -> Part:
        found = self._state, marker
        if found in ((CONTENT, self._reasoning[0]), (REASONING, self._reasoning[1])):
            self._enter(CONTENT if self._state == REASONING else REASONING)
        elif found == (CONTENT, self._calls[0]):
            before = self._held
            self._enter(CALL)
            self._call = before + marker
        elif found == (CALL, self._calls[1]):
            return self._called(closing=marker)
        else:
            return self.text(marker)
        return Part()

    def finish(self) -> Part:
        if self._state == CALL:
            return self._called(closing="")
        return Part(content=self._held) if self._state == CONTENT else Part()

    def _enter(self, state: int) -> None:
        self._state, self._after_tag, self._held = state, True, ""

    def _called(self, closing: str) -> Part:
        text = self._call
        calls = _calls(text.lstrip().removeprefix(self._calls[0]))
        self._enter(CONTENT)
        if calls:
            return Part(tool_calls=calls)
        self._after_tag = False
        return Part(content=text + closing)


def _calls(text: str) -> tuple[ToolCall, ...]:
    """The calls that a text in JSON is, or none."""
    value = parsed(text)
    calls = value if isinstance(value, list) else [value]
    if not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        return ()
    return tuple(
        tool_call(call["name"], call.get("arguments", call.get("parameters", {}))) for call in calls
    )
