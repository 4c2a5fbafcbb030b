"""What answers may be, written as a grammar in Lark, as llguidance has it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

COMMA: Final = '","'
SPACE: Final = '" "?'
LINE: Final = '"\\n"?'
NAME: Final = re.compile(r"[\w.-]+")
COMPOSED: Final = ("allOf", "anyOf", "oneOf", "not", "if", "$ref", "patternProperties",
                   "dependentRequired", "dependentSchemas", "minProperties", "maxProperties",
                   "propertyNames", "unevaluatedProperties")  # fmt: skip


class GrammarError(ValueError):
    """What a format cannot be held to, with the reason."""


def function_of(tool: Mapping[str, Any]) -> Any:
    """What a tool's schema says of its function; some clients leave the rest of it out."""
    return tool.get("function", tool)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool's name, and the JSON schema of its arguments, an object's.

    Where that lists properties and says nothing of others, there are no others.
    """

    name: str
    parameters: Mapping[str, Any]

    @classmethod
    def all(cls, tools: Sequence[Mapping[str, Any]]) -> list[Tool]:
        """Raises GrammarError for names that formats cannot write."""
        functions = [function_of(t) if isinstance(t, Mapping) else t for t in tools]
        for function in functions:
            if not isinstance(function, Mapping):
                raise GrammarError(f"a tool is {function!r}; it must be a dict")
            if not NAME.fullmatch(str(function.get("name"))):
                found = f"a tool's name is {function.get('name')!r}"
                raise GrammarError(f"{found}; it must be of letters, digits, '_', '-' and '.'")
        return [cls(each["name"], _object(each.get("parameters"))) for each in functions]

    @property
    def properties(self) -> list[tuple[str, Any, bool]]:
        """Key, schema and whether it is required, of each argument, for formats that write them one
        by one. Raises GrammarError for schemas that say more than what each is."""
        found = self.parameters
        for key in COMPOSED:
            if key in found:
                raise GrammarError(f"{key!r} is more than this model's calls can be held to")
        keys = [*found.get("properties", {})]
        required = found.get("required", ())
        schemas = found.get("properties", {}) | {key: {} for key in required if key not in keys}
        return [(key, self.within(schema), key in required) for key, schema in schemas.items()]

    def within(self, schema: Any) -> Any:
        """A schema that is part of it, with what it may refer to."""
        if not isinstance(schema, Mapping):
            return schema
        shared = {k: self.parameters[k] for k in ("$defs", "definitions") if k in self.parameters}
        return {**shared, **schema}


@dataclass
class Lark:
    """Writes the rules of a grammar.

    `tokens`: the texts that are tokens which text does not give: they are written by id.
    `json_options`: llguidance's, of JSON texts.
    """

    tokens: Mapping[str, int]
    json_options: Mapping[str, Any]
    _rules: list[str] = field(default_factory=list)

    def text(self, text: str) -> str:
        """This text, perhaps none."""
        pieces = self._tokens.split(text) if self.tokens else [text]
        written = [
            f"<[{self.tokens[piece]}]>" if piece in self.tokens else _quoted(piece)
            for piece in pieces
            if piece
        ]
        return " ".join(written) or '""'

    def json(self, schema: Any) -> str:
        """A text in JSON that a schema allows."""
        if isinstance(schema, bool):
            schema = {} if schema else {"not": {}}
        return f"%json {json.dumps({**schema, 'x-guidance': dict(self.json_options)})}"

    def bare(
        self, schema: Any, close: str, *, without: Sequence[str] = (), null: bool = True
    ) -> str:
        """A text that a schema allows, as it is, up to `close`, and that; none of `without` is in
        it. `null`: whether that word is none, where the schema allows it. Raises GrammarError."""
        choices = _choices(schema, null=null)
        if choices is not None:
            return self.either(self.text(choice + close) for choice in choices)
        pattern = _pattern(schema)
        body = " & ".join([f"/{pattern}/", *(f"~/{ANY}{_escaped(t)}{ANY}/" for t in without)])
        if self._tokens.match(close):  # it is told by itself
            terminal = self.rule(f"({body}) & /(.|\\n)+/", is_terminal=True)
            may_be_empty = re.compile(pattern).fullmatch("") is not None
            return f"{terminal}{'?' * may_be_empty} {self.text(close)}"
        return self.rule(body, f"[suffix={_quoted(close)}]")

    def rule(self, body: str, attributes: str = "", *, is_terminal: bool = False) -> str:
        """Its name."""
        name = f"{'T' if is_terminal else 'r'}{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {body}")
        return name

    def either(self, bodies: Iterable[str]) -> str:
        return f"({' | '.join(bodies)})"

    def many(self, item: str, between: str, *, several: bool) -> str:
        """One or, where there may be several, more."""
        name = self.rule(item)
        return f"{name} ({between} {name})*" if several else name

    def in_order(self, items: Sequence[tuple[str, bool]], between: str) -> str:
        """Items in order, of which all that are required are there."""
        first, later = '""', '""'  # of what follows; after some
        for item, is_required in reversed(items):
            item = self.rule(item)
            with_it = f"{item} {later}"
            first = self.rule(with_it if is_required else f"{with_it} | {first}")
            later = self.rule(f"({between} {item}){'' if is_required else '?'} {later}")
        return first

    def grammar(self, start: str) -> str:
        """All of it."""
        return "\n".join([f"start: {start}", *self._rules])

    @property
    def _tokens(self) -> re.Pattern[str]:
        longest_first = sorted(self.tokens, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})" if self.tokens else "(?!)")


ANY: Final = r"(.|\n)*"


def is_text(schema: Any) -> bool:
    """Whether a value that stands bare, in a call, is read as text: see `typed`. Raises
    GrammarError."""
    options = _options(schema)
    if any("allOf" in option for option in options):
        raise GrammarError("'allOf' is more than this model's calls can be held to")
    return any(_is(option, "string") for option in options)


def _options(schema: Any) -> list[Mapping[str, Any]]:
    """The schemas of which a value needs one."""
    if not isinstance(schema, Mapping):
        return []
    for key in ("anyOf", "oneOf"):
        if key in schema:
            rest = {k: v for k, v in schema.items() if k != key}
            return [o for each in schema[key] for o in _options({**rest, **each})]
    return [schema]


def _is(option: Mapping[str, Any], kind: str) -> bool:
    kinds = option.get("type", ())
    values = [*option.get("enum", ()), *([option["const"]] if "const" in option else [])]
    python = str if kind == "string" else type(None)
    if values:
        return any(isinstance(value, python) for value in values)
    return kind == kinds or (not isinstance(kinds, str) and kind in kinds)


def _choices(schema: Any, *, null: bool = True) -> list[str] | None:
    """The texts that a schema allows, where it lists them."""
    found: list[str] = []
    for option in _options(schema):
        if _is(option, "null") and not _is(option, "string"):
            found += ["null"] * null
            continue
        values = [*option.get("enum", ()), *([option["const"]] if "const" in option else [])]
        if not values and _is(option, "string"):
            return None
        found += [value for value in values if isinstance(value, str)]
        found += ["null"] * (null and None in values)
    return found


def _pattern(schema: Any) -> str:
    """An expression of the texts that a schema allows. Raises GrammarError."""
    patterns = []
    for option in _options(schema):
        if _choices(option) is not None:
            patterns += [_escaped(choice) for choice in _choices(option) or ()]
            continue
        least, most = option.get("minLength", 0), option.get("maxLength", "")
        lengths = f"{{{least},{most}}}" if least or most != "" else "*"
        if "pattern" not in option:
            patterns.append(rf"(.|\n){lengths}")
        elif lengths != "*":
            raise GrammarError("'pattern' beside a length is more than such calls can be held to")
        else:
            patterns.append(_searched(option["pattern"]))
    return "|".join(patterns) if len(patterns) > 1 else patterns[0]


def _searched(pattern: str) -> str:
    """An expression that matches a whole text where `pattern` is found in it."""
    begins = pattern.startswith("^")
    ends = pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[begins : len(pattern) - ends].replace("/", r"\/")
    return f"{'' if begins else ANY}({inner}){'' if ends else ANY}"


def _escaped(text: str) -> str:
    """A text as an expression between slashes."""
    return re.escape(text).replace("/", r"\/").replace("\n", "n").replace("\\\\n", "\\n")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _object(parameters: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {}, **(parameters or {})}
    if not any(key in schema for key in COMPOSED):
        schema.setdefault("additionalProperties", False)
    return schema
