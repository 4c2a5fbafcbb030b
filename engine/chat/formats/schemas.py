"""Tools, as an answer may call them, and what the JSON schemas of their arguments say."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from linnet.engine.json_schemas import as_meant

NAME: Final = re.compile(r"[\w.-]+")
CHOICES: Final = ("anyOf", "oneOf", "allOf")
COMPOSED: Final = ("allOf", "anyOf", "oneOf", "not", "if", "$ref", "patternProperties",
                   "dependentRequired", "dependentSchemas", "minProperties", "maxProperties",
                   "propertyNames", "unevaluatedProperties")  # fmt: skip
# What has to be of a type for anybody to look into it; llguidance checks the rest.
KINDS: Final = {
    "type": (str, list), "properties": (Mapping,), "minLength": (int,), "maxLength": (int,),
    "pattern": (str,), **dict.fromkeys(("enum", "required", *CHOICES), (list, tuple)),
}  # fmt: skip


class GrammarError(ValueError):
    """What a format cannot be held to, with the reason."""


def function_of(tool: Mapping[str, Any]) -> Any:
    """What a tool's schema says of its function; some clients leave the rest of it out."""
    return tool.get("function", tool)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool's name, and the JSON schema of its arguments, an object's.

    An object that lists properties and says nothing of others has no others: see `as_meant`.
    `strict`: whether arguments must be as that has them.
    """

    name: str
    parameters: Mapping[str, Any]
    strict: bool = False

    @classmethod
    def all(cls, tools: Sequence[Mapping[str, Any]]) -> list[Tool]:
        """Raises ValueError for what is none, and for names that formats cannot write."""
        found = []
        for tool in tools:
            function = function_of(tool) if isinstance(tool, Mapping) else tool
            if not isinstance(function, Mapping):
                raise GrammarError(f"a tool is {reprlib.repr(function)}; it must be a dict")
            name, parameters = function.get("name"), function.get("parameters")
            if not isinstance(name, str) or not NAME.fullmatch(name):
                wanted = "it must be of letters, digits, '_', '-' and '.'"
                raise GrammarError(f"a tool's name is {reprlib.repr(name)}; {wanted}")
            try:
                _check(parameters or {}, f"{name}.parameters")
                found.append(cls(name, _object(parameters), function.get("strict") is True))
            except RecursionError as error:
                raise GrammarError(f"{name}.parameters is nested too deeply") from error
        return found

    @property
    def loose(self) -> Tool:
        """The same, but that arguments may be any, text where its schema has text."""
        properties = {
            key: {"type": "string"} if is_text(schema) else {}
            for key, schema in properties_of(self.parameters).items()
        }
        return replace(self, parameters={"type": "object", "properties": properties})

    @property
    def properties(self) -> list[tuple[str, Any, bool]]:
        """Key, schema and whether it is required, of each argument, for formats that write them one
        by one. Raises GrammarError for schemas that say more than what each is."""
        found = self.parameters
        for key in COMPOSED:
            if key in found:
                raise GrammarError(f"{key!r} is more than this model's calls can be held to")
        keys, required = found.get("properties") or {}, found.get("required") or ()
        if not keys and found.get("additionalProperties") is not False:
            raise GrammarError("its arguments have no names that this model's calls could have")
        schemas = keys | {key: {} for key in required if key not in keys}
        return [(key, self.within(schema), key in required) for key, schema in schemas.items()]

    def within(self, schema: Any) -> Any:
        """A schema that is part of it, with what it may refer to."""
        if not isinstance(schema, Mapping):
            return schema
        shared = {k: self.parameters[k] for k in ("$defs", "definitions") if k in self.parameters}
        return {**shared, **schema}


def is_text(schema: Any) -> bool:
    """Whether a value that stands bare, in a call, is read as text: where its schema has text."""
    return "string" in types_of(schema)


def types_of(schema: Any) -> set[str]:
    """The types that a schema tells."""
    if not isinstance(schema, Mapping):
        return set()
    kinds = schema.get("type") or ()
    found = {kinds} if isinstance(kinds, str) else {kind for kind in kinds if isinstance(kind, str)}
    if any(isinstance(value, str) for value in values_of(schema)):
        found.add("string")
    return found.union(*(types_of(choice) for choice in _choices(schema)))


def values_of(schema: Mapping[str, Any]) -> list[Any]:
    """Those that a schema lists."""
    return [*(schema.get("enum") or ()), *([schema["const"]] if "const" in schema else [])]


def properties_of(schema: Any) -> dict[str, Any]:
    """Those that an object may have by its schema, or by one of those it is made of."""
    if not isinstance(schema, Mapping):
        return {}
    found = dict(schema.get("properties") or {})
    for choice in _choices(schema):
        found = properties_of(choice) | found
    return found


def _choices(schema: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas that it is made of."""
    return (choice for key in CHOICES for choice in schema.get(key) or ())


def _check(schema: Any, name: str) -> None:
    """Raise GrammarError for what is no schema as far as anybody here looks into one."""
    if not isinstance(schema, Mapping):
        raise GrammarError(f"{name} is {reprlib.repr(schema)}; it must be a JSON schema, a dict")
    for key, kinds in KINDS.items():
        value = schema.get(key)
        if value is not None and not isinstance(value, kinds):
            found = f"{name}.{key} is {reprlib.repr(value)}"
            wanted = " or ".join("dict" if kind is Mapping else kind.__name__ for kind in kinds)
            raise GrammarError(f"{found}; it must be of type {wanted}")
    inner = [*(schema.get("properties") or {}).items(), *(("", each) for each in _choices(schema))]
    for key, each in inner:
        if not isinstance(each, bool):
            _check(each, f"{name}.{key}" if key else name)


def options_of(schema: Any) -> list[Mapping[str, Any]]:
    """The schemas of which a value needs one. Raises GrammarError."""
    if not isinstance(schema, Mapping):
        return []
    if "allOf" in schema:
        raise GrammarError("'allOf' is more than this model's calls can be held to")
    for key in ("anyOf", "oneOf"):
        if key in schema:
            rest = {k: v for k, v in schema.items() if k != key}
            return [o for each in schema[key] for o in options_of({**rest, **each})]
    return [schema]


def has_type(option: Mapping[str, Any], kind: str) -> bool:
    """Whether values may be of it, by one of `options_of`."""
    kinds, values = option.get("type") or (), values_of(option)
    python = str if kind == "string" else type(None)
    if values:
        return any(isinstance(value, python) for value in values)
    return kind == kinds or (not isinstance(kinds, str) and kind in kinds)


def _object(parameters: Any) -> dict[str, Any]:
    found: dict[str, Any] = as_meant({"type": "object", "properties": {}, **(parameters or {})})
    return found
