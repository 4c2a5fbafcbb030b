"""Jinja for templates from strangers: no way out, and limits of time and size.

jinja2's immutable sandbox keeps a template off Python's insides. It does not keep it from taking
hours or all memory, so here

- whatever would make a value out of others (operators, literals, calls, filters, slices, blocks)
  refuses one of more than `LARGEST` characters, or more than `MOST` in all, and what grows in other
  ways is not there;
- rendering ends at a deadline, looked at with every line that Python runs of a template.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from types import FrameType
from typing import Any, Final

import jinja2.ext
from jinja2 import nodes
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

LARGEST: Final = 1 << 22  # characters in a value; an item of a list counts for 64
MOST: Final = 1 << 27  # characters in all values that a rendering makes, kept or not
_ITEM: Final = 64
_MOST_DIGITS: Final = 4096  # bits of an integer
_ESCAPED: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u(dc[0-9a-f]{2})")
_FILTERS: Final = (
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first"),
    *("float", "groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min"),
    *("reject", "rejectattr", "reverse", "safe", "select", "selectattr", "sort"),
    *("sum", "title", "trim", "unique", "upper", "urlencode", "wordcount"),
)
_GROWING_METHODS: Final = frozenset(
    {*("center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "translate")}
    | {"encode"}
)


_made: Final[ContextVar[list[int]]] = ContextVar("made")  # characters, by this rendering


class TemplateError(ValueError):
    """A chat template that is missing, malformed, refuses the messages or goes beyond a limit."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of chat templates, set up as transformers does it."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_written,
            extensions=["jinja2.ext.loopcontrols", GenerationBlock],
        )
        own = {"join": _join, "replace": _replace, "indent": _indent, "tojson": _to_json}
        ours = {"string": _written, "bounded": bounded}  # filters, as templates cannot replace them
        self.filters = {name: FILTERS[name] for name in _FILTERS} | own | ours
        self.globals.pop("lipsum")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Bounding().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """What a template, block or macro writes."""
        return _concatenate(parts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", None)
        if isinstance(owner, str) and name == "join":
            (items,) = args
            return _join(items, owner)
        if isinstance(owner, str) and name == "replace":
            return _replace(owner, *args, **kwargs)
        return bounded(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` is not there: its widths have no bounds."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, int | float) or (isinstance(obj, str) and attr in _GROWING_METHODS):
            return False
        return super().is_safe_attribute(obj, attr, value)


class GenerationBlock(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %}: marks what is trained on; here, only its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Bounding(NodeTransformer):
    """Sends through `bounded` what the sandbox does not see: literals of values, and "~"."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        first, *rest = (self._through("string", self.visit(part)) for part in node.nodes)
        for part in rest:
            first = nodes.Add(first, part, lineno=node.lineno)
        return first

    def _through(self, name: str, node: nodes.Expr) -> nodes.Expr:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)

    def _bounded(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load":
            return node
        return self._through("bounded", node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        if isinstance(node.arg, nodes.Slice):
            return self._bounded(node)
        self.generic_visit(node)
        return node

    visit_List = visit_Tuple = visit_Dict = visit_Filter = _bounded  # noqa: N815


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Ends what runs of templates inside with a `TemplateError` after `seconds`.

    Python calls a trace function with every line of a template and every call; any other, of a
    debugger, waits meanwhile.
    """
    end = time.monotonic() + seconds

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if time.monotonic() > end:
            raise TemplateError(f"the chat template takes longer than {seconds} s")
        return trace if frame.f_code.co_filename == "<template>" else None

    previous, token = sys.gettrace(), _made.set([0])
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(previous)
        _made.reset(token)


def bounded(value: Any) -> Any:
    """The same value. Raises `TemplateError` where it is too large."""
    _check(_size(value, LARGEST))
    return value


def _size(value: object, most: int) -> int:
    """The characters in a value and its items, counted no further than past `most`."""
    if isinstance(value, str | bytes):
        return len(value)
    size, waiting = _ITEM, [value]
    while waiting and size <= most:
        value = waiting.pop()
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, Mapping):
            size += _ITEM * len(value)
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            size += _ITEM * len(value)
            waiting += value
    return size


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise TemplateError(f"the chat template makes a value of more than {LARGEST} characters")


def _check(size: int) -> None:
    """Account for a value of so many characters."""
    _check_size(size)
    made = _made.get([0])
    made[0] += size
    if made[0] > MOST:
        raise TemplateError(f"the chat template makes more than {MOST} characters in all")


def _check_operation(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result would be too large, before it is done."""
    if operator == "%" and isinstance(left, str):
        if re.search(r"%[^a-zA-Z%]*(\d{4}|\*)", left):
            raise TemplateError("the chat template formats with a width of more than 999")
        _check(len(left) + len(left) // 2 * _size(right, LARGEST))
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length(), right.bit_length()
        is_large = operator == "**" and bits[0] * right > _MOST_DIGITS
        if is_large or (operator == "*" and sum(bits) > _MOST_DIGITS):
            raise TemplateError(
                f"the chat template makes an integer of more than {_MOST_DIGITS} bits"
            )
    elif operator == "*":
        times, repeated = (left, right) if isinstance(left, int) else (right, left)
        _check(max(times, 0) * _size(repeated, LARGEST) if isinstance(times, int) else 0)
    elif operator == "+":
        _check(_size(left, LARGEST) + _size(right, LARGEST))


def _concatenate(parts: Iterable[str]) -> str:
    kept, size = [], 0
    for part in parts:
        size += len(part)
        _check_size(size)
        kept.append(part)
    _check(size)
    return "".join(kept)


# ---- filters that would grow without bounds ------------------------------------------------------


def _join(value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    items = list(islice(value, LARGEST + 1))
    if attribute is not None:
        items = [item[attribute] for item in items]
    d = str(d)
    texts = [str(bounded(item)) for item in items]
    _check(sum(map(len, texts)) + len(d) * len(texts))
    return d.join(texts)


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    text = str(bounded(value))
    n_found = text.count(old)
    if count is not None and count >= 0:
        n_found = min(n_found, count)
    _check(len(text) + n_found * (len(new) - len(old)))
    return text.replace(old, new, n_found)


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    space = width if isinstance(width, str) else " " * min(width, 999)
    lines = value.split("\n")
    _check(len(value) + len(lines) * len(space))
    indented = [space + line if line or blank else line for line in lines]
    return "\n".join(indented if first else [lines[0], *indented[1:]])


def _written(value: Any) -> str:
    """A value as text."""
    return value if isinstance(value, str) else _unescaped(str(bounded(value)))


def _unescaped(text: str) -> str:
    """`text` with half surrogate pairs as they were: hidden control tokens are made of them."""
    return _ESCAPED.sub(lambda found: found[1] + chr(int(found[2], 16)), text)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: without HTML's escapes, and keys in their order."""
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
        raise TemplateError(f"the chat template indents JSON by {indent!r}; it must be 0 to 16")
    text = json.dumps(
        bounded(value),
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    return _unescaped(text)
