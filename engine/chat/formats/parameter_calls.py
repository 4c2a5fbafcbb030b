"""Calls with a tag for each parameter: <function=f><parameter=x>1</parameter></function>."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from linnet.engine.chat.formats.calls import (
    Calls,
    Found,
    Pair,
    closed,
    parameter_schema,
    parsed,
    typed,
)
from linnet.engine.chat.formats.grammar import LINE, Lark
from linnet.engine.chat.formats.parts import ToolSchemas, tool_call
from linnet.engine.chat.formats.schemas import Tool, is_text


@dataclass(frozen=True, kw_only=True)
class ParameterCalls(Calls):
    """Patterns: `header`, from the opener on, with the call's `name`; `parameter`, up to where the
    value begins, with its `key` and, where the format says so, whether it `is_text`, or "json";
    `close`, from where a value ends; `end`, of the call.

    A value is its bare text; what is between the tags of others is none of them. `tags`: what
    stands before one, with its {key} and, where the format says so, whether it {is_text}, by the
    words for that and for JSON; and what stands behind it. `has_entities`: keys have those of XML.
    """

    tags: Pair
    words: Pair = ("", "")
    has_entities: bool = False
    header: str
    parameter: str
    close: str
    end: str

    last: ClassVar[str] = ">"

    def read(self, text: str, tools: ToolSchemas, *, is_whole: bool) -> Found | None:
        header = re.compile(self.header).match(text)
        end = re.compile(self.end)
        if header is None:
            found = end.search(text) if is_whole else None
            return Found(found.end()) if found else None
        name, at, arguments = header["name"].strip(), header.end(), dict[str, Any]()
        if header.groupdict().get("empty"):
            return Found(at, (tool_call(name, {}),))
        next_tag = re.compile(
            rf"\s*(?:(?P<parameter>{self.parameter})|(?P<end>{self.end}))", re.DOTALL
        )
        follows = rf"(?=\s*(?:{_unnamed(self.parameter)}|{self.end}))"
        forgotten = rf"\n(?={_unnamed(self.parameter)})"
        close = re.compile(rf"(?:{self.close}){follows}|{forgotten}", re.DOTALL)
        unclosed = re.compile(rf"{self.close}|\s*(?={self.end})", re.DOTALL)
        while True:
            tag = next_tag.match(text, at)
            if tag is None:
                return closed(text, end, at)
            if tag["parameter"] is None:
                return Found(tag.end(), (tool_call(name, arguments),))
            value_end = close.search(text, tag.end())
            if value_end is None and is_whole:
                value_end = unclosed.search(text, tag.end())
            if value_end is None:
                return None
            value = text[tag.end() : value_end.start()]
            key = _unescaped(tag["key"]) if self.has_entities else tag["key"]
            schema = parameter_schema(tools, name, key)
            arguments[key] = self._value(tag.groupdict().get("is_text"), value, schema)
            at = value_end.end()

    def arguments(self, lark: Lark, tool: Tool) -> str:
        items = []
        for key, schema, is_required in tool.properties:
            stands_bare, closes = is_text(schema), self.tags[1]
            word = self.words[0 if stands_bare else 1]
            written = _escaped(key) if self.has_entities else key
            opens = lark.text(self.tags[0].replace("{key}", written).replace("{is_text}", word))
            if stands_bare:
                others = "\n" + self.tags[0].partition("{key}")[0]
                value = lark.bare(schema, closes, without=[closes.strip(), others], null=not word)
            else:
                value = f"{lark.json(schema)} {lark.text(closes)}"
            items.append((f"{opens} {value} {LINE}", is_required))
        return lark.in_order(items, "")

    def _value(self, is_text: str | None, value: str, schema: Any) -> Any:
        if is_text in ("true", "string"):
            return value
        if is_text is not None:
            found = parsed(value)
            return value if found is None and value.strip() != "null" else found
        return typed(value, schema)


def _escaped(text: str) -> str:
    from html import escape  # imports what few need

    return escape(text)


def _unescaped(text: str) -> str:
    from html import unescape

    return unescape(text)


def _unnamed(pattern: str) -> str:
    return re.sub(r"\(\?P<\w+>", "(?:", pattern)
