"""Calls as a list in Python: [f(x=1), g(y="a")]."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, ClassVar, Final

from linnet.engine.chat.formats.calls import (
    BETWEEN,
    Calls,
    Found,
    balanced_end,
    closed,
    names,
    parsed,
)
from linnet.engine.chat.formats.grammar import Lark
from linnet.engine.chat.formats.parts import ToolCall, ToolSchemas, tool_call
from linnet.engine.chat.formats.schemas import GrammarError, Tool

TOKEN: Final = re.compile(
    r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|(?P<open>["'])|[()\[\]{}]""", re.DOTALL
)
CONSTANTS: Final = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, kw_only=True)
class PythonicCalls(Calls):
    """`header`: a pattern of what stands before the list; `closer`: of what stands behind it."""

    header: str
    closer: str

    last: ClassVar[str] = "])>"

    def read(self, text: str, tools: ToolSchemas, *, is_whole: bool) -> Found | None:
        header, closer = re.compile(self.header + r"\s*(?=\[)").match(text), re.compile(self.closer)
        if header is None:
            return closed(text, closer, 1)
        end = balanced_end(TOKEN.finditer(text, header.end()))
        if end is None:
            return None
        calls = _calls(text[header.end() : end])
        if self.bare and tools and {call["function"]["name"] for call in calls} - names(tools):
            calls = ()
        behind = re.compile(rf"\s*(?:{self.closer})").match(text, end)
        if behind:
            return Found(behind.end(), calls)
        if is_whole and not text[end:].strip():
            return Found(len(text), calls)
        return closed(text, closer, end)

    def call(self, lark: Lark, tool: Tool) -> str:
        """With arguments by keyword; those that are no names in Python are left out."""
        items = []
        for key, schema, is_required in tool.properties:
            if key.isidentifier() and not iskeyword(key):
                items.append((f'"{key}=" {lark.json(schema)}', is_required))
            elif is_required:
                raise GrammarError(f"{key!r} is no name in Python, in which this model calls")
        return f'"{tool.name}(" {lark.in_order(items, BETWEEN)} ")"'


def _calls(text: str) -> tuple[ToolCall, ...]:
    """The calls that a list is, or none."""
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.List) or not tree.elts:
            return ()
        return tuple(_call(node, text) for node in tree.elts)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return ()


def _call(node: ast.expr, text: str) -> ToolCall:
    """Raises ValueError for what is no call with literals by keyword."""
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("no call with keywords")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("** in a call")
        arguments[keyword.arg] = _literal(keyword.value, text)
    return tool_call(ast.unparse(node.func), arguments)


def _literal(node: ast.expr, text: str) -> Any:
    """As `ast.literal_eval`, with the constants of JSON too, and its texts, whose escapes are not
    all Python's."""
    match node:
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item, text) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {
                str(_literal(key, text)): _literal(value, text)
                for key, value in zip(keys, values, strict=True)
                if key is not None
            }
        case ast.Constant(value=str()):
            found = parsed(ast.get_source_segment(text, node) or "")
            if isinstance(found, str):
                return found
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError(f"{value!r} is nothing that JSON has")
    return value
