"""Calls whose arguments are in JSON: <tool_call>{"name": ..., "arguments": {...}}</tool_call>."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from linnet.engine.chat.formats.calls import (
    BETWEEN,
    Begun,
    Calls,
    Found,
    closed,
    json_end,
    names,
    parsed,
)
from linnet.engine.chat.formats.grammar import SPACE, Lark
from linnet.engine.chat.formats.parts import ToolCall, ToolSchemas, tool_call
from linnet.engine.chat.formats.schemas import Tool

NAME_KEYS: Final = ("name", "tool_name")
ARGUMENT_KEYS: Final = ("arguments", "parameters")
CALL_ID: Final = '"\\"" /[0-9]{1,2}/ "\\""'
CALL: Final = re.compile(  # an object up to its arguments, the first of a list perhaps
    rf'\[?\{{"({"|".join(NAME_KEYS)})": ?"(?P<name>[^"]*)", ?'
    rf'"({"|".join(ARGUMENT_KEYS)})": ?(?=\{{)'
)
SURPLUS: Final = re.compile(r"[\s}\]]*")  # brackets too many, which small models write


@dataclass(frozen=True, kw_only=True)
class JsonCalls(Calls):
    """Patterns: `header`, from the opener to where the JSON begins, perhaps with the call's `name`;
    without that, the JSON is an object with a name and arguments, or a list of those. `closer`:
    what follows; "" for nothing. `keys`: of an object that is a call, as the model writes them."""

    header: str
    closer: str = ""
    keys: tuple[str, ...] = ("name", "arguments")

    last: ClassVar[str] = "]}>"

    def read(self, text: str, tools: ToolSchemas, *, is_whole: bool) -> Found | None:
        header = re.compile(self.header).match(text)
        closer = re.compile(self.closer) if self.closer else None
        if header is None:
            return closed(text, closer, 1)
        name, at, calls = header.groupdict().get("name"), header.end(), tuple[ToolCall, ...]()
        while True:
            end = json_end(text, at, closer)
            if end is None:
                return None
            if end < 0:
                return closed(text, closer, at)
            some = self._calls(name, text[at:end], tools)
            calls = calls + some if some else ()
            if closer is None:
                return Found(end, calls)
            surplus = SURPLUS.match(text, end)
            at = surplus.end() if surplus else end
            if found := closer.match(text, at):
                return Found(found.end(), calls)
            if not some or text[at : at + 1] not in ("{", "["):  # another one, before it closes
                break
        if at == len(text):
            return Found(at, calls) if is_whole else None
        return closed(text, closer, at)

    def begun(self, text: str) -> Begun | None:
        header = re.compile(self.header).match(text)
        if header is None:
            return None
        named = header if header.groupdict().get("name") else CALL.match(text, header.end())
        if named is None:
            return None
        end = json_end(text, named.end())
        return Begun(named["name"].strip(), text[named.end() : end], end is None)

    def call(self, lark: Lark, tool: Tool) -> str:
        """An object in JSON."""
        values = dict.fromkeys(NAME_KEYS, f'"\\"{tool.name}\\""')
        values |= {key: self.arguments(lark, tool) for key in ARGUMENT_KEYS if key in self.keys}
        items = [f'"\\"{key}\\":" {SPACE} {values.get(key, CALL_ID)}' for key in self.keys]
        return f'"{{" {f" {BETWEEN} ".join(items)} "}}"'

    def _calls(self, name: str | None, text: str, tools: ToolSchemas) -> tuple[ToolCall, ...]:
        """The calls that a text in JSON is, or none."""
        value = parsed(text)
        if name is not None:
            return (tool_call(name.strip(), value),) if isinstance(value, dict) else ()
        many = value if isinstance(value, list) else [value]
        calls = [_call(each) for each in many]
        found = tuple(call for call in calls if call is not None)
        if len(found) < len(calls):
            return ()
        if text and self.bare and tools:  # nothing but the name tells it from other JSON
            offered = names(tools)
            if any(call["function"]["name"] not in offered for call in found):
                return ()
        return found


def _call(value: Any) -> ToolCall | None:
    if not isinstance(value, Mapping):
        return None
    if isinstance(inner := value.get("function"), Mapping):  # as messages have it
        value = inner
    name = next((value[key] for key in NAME_KEYS if key in value), None)
    if not isinstance(name, str):
        return None
    arguments: Any = next((value[key] for key in ARGUMENT_KEYS if key in value), {})
    if isinstance(arguments, str):
        arguments = parsed(arguments)
    return tool_call(name, arguments) if isinstance(arguments, dict) else None
