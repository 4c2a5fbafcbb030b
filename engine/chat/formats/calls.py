"""What the ways of writing tool calls have in common: where a call begins, and how it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

from linnet.engine.chat.formats.grammar import LINE, SPACE, Lark
from linnet.engine.chat.formats.parts import ToolCall, ToolSchemas
from linnet.engine.chat.formats.schemas import (
    GrammarError,
    Tool,
    function_of,
    properties_of,
    types_of,
)

Pair = tuple[str, str]  # what opens, and what closes

BETWEEN: Final = f'"," {SPACE}'  # calls in a list
PYTHON: Final = {"True": True, "False": False, "None": None}

_PLACES: Final = re.compile(r"(\{(?:name|arguments|call|calls|n|_)\})")
_JSON: Final = r'"(?:[^"\\]|\\.)*"|(?P<open>")|[{}\[\]]'


class Found(NamedTuple):
    """The calls in the first `end` characters of a text; none where these are no call after all."""

    end: int
    calls: tuple[ToolCall, ...] = ()


class Begun(NamedTuple):
    """A call's name, and as much of its arguments as there is; whether they go on."""

    name: str
    arguments: str
    is_open: bool


@dataclass(frozen=True, kw_only=True)
class Calls:
    """How calls are written; a subclass says how one is read, and how its arguments are written.

    `forms`: what `read` finds, each with {name} and {arguments}, or {call} or a list of {calls},
    which have both; {n} is a number, {_} perhaps a line's end. `openers`: markers that each begin a
    call. `section`: what stands around all calls, between which other text is noise. `inner`:
    markers within a call. `bare`: characters that begin a call where an answer begins with one,
    without any marker.
    """

    forms: tuple[str, ...] = ()
    openers: tuple[str, ...] = ()
    section: tuple[Pair, ...] = ()
    inner: tuple[str, ...] = ()
    bare: str = ""

    last: ClassVar[str]  # the characters that a call can end with

    @property
    def markers(self) -> tuple[str, ...]:
        around = (marker for pair in self.section for marker in pair)
        return tuple(dict.fromkeys([*self.openers, *around, *self.inner]))

    def read(self, text: str, tools: ToolSchemas, *, is_whole: bool) -> Found | None:
        """A call from the beginning of `text` on, which begins with an opener or a bare character;
        None while it may go on. `is_whole`: nothing follows, so what is still open is closed.

        What is found must be found in whatever begins with `text`, too: an answer comes in pieces.
        """
        raise NotImplementedError

    def begun(self, text: str) -> Begun | None:
        """The call that a text has begun, which begins as `read`'s and is held to its form; None
        before its arguments begin, and where these are not JSON."""
        return None

    def all_of(self, lark: Lark, tools: Sequence[Tool], *, several: bool) -> str:
        """An answer's calls, as a grammar has them: one or, where there may be, several. Raises
        GrammarError."""
        blocks = lark.many(self.block(lark, tools, several=several), LINE, several=several)
        if self.section:
            opens, closes = map(lark.text, self.section[0])
            blocks = f"{opens} {LINE} {blocks} {LINE} {closes}"
        return f"{LINE} {LINE} {blocks}"

    def block(self, lark: Lark, tools: Sequence[Tool], *, several: bool, opener: str = "") -> str:
        """What `read` finds from an opener on. Raises GrammarError."""
        bodies: list[str] = []
        for form in self.forms:
            if form.startswith(opener):
                some = [tools] if "{calls}" in form else [[tool] for tool in tools]
                bodies += [self._formed(form, lark, each, several=several) for each in some]
        if not bodies:
            raise GrammarError("calls of this model cannot be held to a form")
        return lark.either(bodies)

    def call(self, lark: Lark, tool: Tool) -> str:
        """A call's name and arguments, as a grammar has them."""
        raise NotImplementedError

    def arguments(self, lark: Lark, tool: Tool) -> str:
        """A call's arguments, as a grammar has them. Raises GrammarError."""
        return lark.json(tool.parameters)

    def _formed(self, form: str, lark: Lark, tools: Sequence[Tool], *, several: bool) -> str:
        def filled(place: str) -> str:
            tool = tools[0]
            match place:
                case "{name}":
                    return lark.text(tool.name)
                case "{arguments}":
                    return self.arguments(lark, tool)
                case "{call}":
                    return self.call(lark, tool)
                case "{calls}":
                    each = lark.either(self.call(lark, tool) for tool in tools)
                    return f'"[" {lark.many(each, BETWEEN, several=several)} "]"'
                case "{n}":
                    return "/[0-9]{1,2}/"
                case "{_}":
                    return LINE
            return lark.text(place)

        return " ".join(filled(place) for place in _PLACES.split(form) if place)


def json_end(text: str, start: int, stop: re.Pattern[str] | None = None) -> int | None:
    """Where the JSON object or list that begins at `start` ends; -1 where `stop` matches outside of
    its strings before it does; None while it may go on."""
    pattern = f"{_JSON}|(?P<stop>{stop.pattern if stop else '(?!)'})"
    return balanced_end(re.compile(pattern, re.DOTALL).finditer(text, start))


def balanced_end(tokens: Iterator[re.Match[str]]) -> int | None:
    """Where the first bracket among the tokens closes; None where it does not, or a string, whose
    quote is the group `open` then, does not end; -1 where there is a group `stop` before."""
    depth = 0
    for token in tokens:
        if token.lastgroup is not None:
            return -1 if token.lastgroup == "stop" else None
        if token[0] in ("(", "[", "{"):
            depth += 1
        elif token[0] in (")", "]", "}"):
            depth -= 1
            if depth <= 0:
                return token.end()
    return None


def closed(text: str, closer: re.Pattern[str] | None, start: int) -> Found | None:
    """Up to where it closes from `start` on, and no call; None where it does not."""
    found = closer.search(text, start) if closer else None
    return Found(found.end()) if found else None


def in_text(text: str) -> bool:
    """Whether a text in JSON ends within a string."""
    return any(token["open"] for token in re.finditer(_JSON, text, re.DOTALL))


def parsed(text: str) -> Any:
    """A value in JSON, or None."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def typed(text: str, schema: Any) -> Any:
    """A parameter's value from its bare text, by its JSON schema: text where that allows text, or
    where it is neither JSON nor a constant of Python's; else the value."""
    types, word = types_of(schema), text.strip()
    if "string" in types and not ("null" in types and word == "null"):
        return text
    if word in PYTHON:
        return PYTHON[word]
    value = parsed(word)
    return text if value is None and word != "null" else value


def parameter_schema(tools: ToolSchemas, name: str, key: str) -> Any:
    """The schema of a tool's parameter, or None."""
    for tool in tools:
        function = function_of(tool)
        if isinstance(function, Mapping) and function.get("name") == name:
            return properties_of(function.get("parameters")).get(key)
    return None


def names(tools: ToolSchemas) -> set[Any]:
    """Of the tools that are offered."""
    return {function_of(tool).get("name") for tool in tools}
