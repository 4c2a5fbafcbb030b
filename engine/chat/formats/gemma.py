"""Calls as Gemma 4 writes them: <|tool_call>call:f{text:<|"|>a<|"|>,n:1}<tool_call|>."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from linnet.engine.chat.formats.calls import Calls, Found, parsed
from linnet.engine.chat.formats.grammar import COMMA, Lark
from linnet.engine.chat.formats.parts import ToolSchemas, tool_call
from linnet.engine.chat.formats.schemas import Tool, is_text

OPEN, CLOSE, QUOTE = "<|tool_call>", "<tool_call|>", '<|"|>'
HEADER: Final = re.compile(re.escape(OPEN) + r"\s*call:\s*(?P<name>[^\s{}]+)\s*(?=\{)")
ENDS: Final = re.compile(
    rf"{re.escape(QUOTE)}(?:.*?(?P<quote>{re.escape(QUOTE)}))?|{re.escape(CLOSE)}", re.DOTALL
)
KEY: Final = re.compile(
    rf"""\s*(?:{re.escape(QUOTE)}(.*?){re.escape(QUOTE)}|"((?:[^"\\]|\\.)*)"|([^:{{}}\[\],]+?))\s*:""",
    re.DOTALL,
)
BARE: Final = re.compile(r"[^,\]}]*")


@dataclass(frozen=True, kw_only=True)
class GemmaCalls(Calls):
    """Objects whose keys are bare and whose texts stand between control tokens."""

    forms: tuple[str, ...] = (f"{OPEN}call:{{name}}{{arguments}}{CLOSE}",)
    openers: tuple[str, ...] = (OPEN,)
    inner: tuple[str, ...] = (CLOSE, QUOTE)

    last: ClassVar[str] = ">"

    def arguments(self, lark: Lark, tool: Tool) -> str:
        """Texts between control tokens; objects and lists in JSON, which `read` takes, too."""
        items = []
        for key, schema, is_required in tool.properties:
            value = lark.json(schema)
            if is_text(schema):
                value = f"{lark.text(QUOTE)} {lark.bare(schema, QUOTE, null=False)}"
            items.append((f"{lark.text(f'{key}:')} {value}", is_required))
        return f'"{{" {lark.in_order(items, COMMA)} "}}"'

    def read(self, text: str, tools: ToolSchemas, *, is_whole: bool) -> Found | None:
        end = None
        for found in ENDS.finditer(text):
            if found[0] == CLOSE:
                end = found
                break
            if found["quote"] is None:
                return None
        if end is None and not is_whole:
            return None
        stop = len(text) if end is None else end.start()
        header = HEADER.match(text)
        if header is None:
            return None if end is None else Found(end.end())
        try:
            value, at = _value(text[:stop], header.end())
        except ValueError:
            return None if end is None else Found(end.end())
        if text[at:stop].strip():
            return None if end is None else Found(end.end())
        return Found(len(text) if end is None else end.end(), (tool_call(header["name"], value),))


def _value(text: str, at: int) -> tuple[Any, int]:
    """A value, and where it ends. Raises ValueError for what is none."""
    at += len(text[at:]) - len(text[at:].lstrip())
    if text.startswith(QUOTE, at):
        end = text.find(QUOTE, at + len(QUOTE))
        if end < 0:
            raise ValueError("a text is not closed")
        return text[at + len(QUOTE) : end], end + len(QUOTE)
    first = text[at : at + 1]
    if first == "{":
        return _object(text, at + 1)
    if first == "[":
        return _list(text, at + 1)
    if first == '"':
        end = at + 1
        while end < len(text) and text[end] != '"':
            end += 2 if text[end] == "\\" else 1
        return parsed(text[at : end + 1]), end + 1
    bare = BARE.match(text, at)
    word = bare[0] if bare else ""
    value = parsed(word.strip())
    return (word.strip() if value is None and word.strip() != "null" else value), at + len(word)


def _object(text: str, at: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while True:
        at = _skip(text, at, ",")
        if text.startswith("}", at):
            return found, at + 1
        key = KEY.match(text, at)
        if key is None:
            raise ValueError("no key")
        marked, quoted, bare = key.groups()
        name = parsed(f'"{quoted}"') if quoted is not None else bare if marked is None else marked
        found[name], at = _value(text, key.end())


def _list(text: str, at: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    while True:
        at = _skip(text, at, ",")
        if text.startswith("]", at):
            return found, at + 1
        if at >= len(text):
            raise ValueError("a list is not closed")
        value, at = _value(text, at)
        found.append(value)


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and (text[at].isspace() or text[at] in characters):
        at += 1
    return at
