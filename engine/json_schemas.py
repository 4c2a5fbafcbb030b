"""JSON schemas as programs mean them: an object has the properties that are listed, no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

# What says something of the same value, and would have to leave properties to each other.
OF_THE_SAME: Final = ("properties", "anyOf", "allOf", "$ref")
# What turns on values that are not allowed.
OF_OTHERS: Final = ("oneOf", "not", "if", "dependentSchemas", "unevaluatedProperties")
LEFT_OPEN: Final = ("additionalProperties", "patternProperties", "propertyNames", "minProperties",
                    "dependentRequired")  # fmt: skip
IMPLIED: Final = {"properties": "object", "items": "array", "prefixItems": "array"}  # types
DEFINITIONS: Final = ("$defs", "definitions")
BY_NAME: Final = ("properties", *DEFINITIONS)
LISTED: Final = ("anyOf", "allOf", "prefixItems")
SINGLE: Final = ("items", "additionalProperties")
DATA: Final = ("const", "enum", "default", "examples")


def as_meant(schema: Any) -> Any:
    """The schema, with no other properties in objects that list some and say nothing of others, as
    llama.cpp and xgrammar read it; and of an object, or a list, where it says what is in it.

    What that allows, the given one does. It is left as it is where it might not be so, or nothing
    might be left: where several schemas hold for the same value, or some must not. Raises
    ValueError for one that is nested too deeply.
    """
    shared: list[str] = []  # references from such places
    try:
        found = _as_meant(schema, shared, defines=True)
    except RecursionError as error:
        raise ValueError("the schema is nested too deeply") from error
    if not shared:
        return found
    if all(reference.startswith(("#/$defs/", "#/definitions/")) for reference in shared):
        return _as_meant(schema, shared, defines=False)
    return schema


def _as_meant(schema: Any, shared: list[str], *, defines: bool) -> Any:
    """`defines`: whether definitions are, too."""
    if not isinstance(schema, Mapping):
        return schema
    alternatives = schema.get("allOf")
    is_several = isinstance(alternatives, list | tuple) and len(alternatives) > 1
    n_of_the_same = sum(key in schema for key in OF_THE_SAME) + is_several
    if n_of_the_same > 1 or any(key in schema for key in OF_OTHERS):
        shared += _references(schema)
        return schema

    def inner(key: str, value: Any) -> Any:
        if key in BY_NAME and isinstance(value, Mapping):
            is_left = key in DEFINITIONS and not defines
            return value if is_left else {name: within(each) for name, each in value.items()}
        if key in LISTED and isinstance(value, list | tuple):
            return [*map(within, value)]
        if key in SINGLE:
            return within(value)
        if key != "$ref" and key not in DATA:
            shared.extend(_references(value))
        return value

    def within(each: Any) -> Any:
        return _as_meant(each, shared, defines=defines)

    found = {key: inner(key, value) for key, value in schema.items()}
    if _lists_all(schema) and not any(key in schema for key in LEFT_OPEN):
        found["additionalProperties"] = False
    if not any(key in schema for key in ("type", "const", "enum")):
        found |= next(({"type": kind} for key, kind in IMPLIED.items() if key in schema), {})
    return found


def _lists_all(schema: Mapping[str, Any]) -> bool:
    """Whether it lists properties, those that are required among them."""
    properties, required = schema.get("properties"), schema.get("required") or ()
    if not isinstance(properties, Mapping) or not isinstance(required, list | tuple):
        return False
    return all(isinstance(key, str) and key in properties for key in required)


def _references(value: Any) -> Iterator[str]:
    """All within it."""
    if isinstance(value, Mapping):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _references(each)
