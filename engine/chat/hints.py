"""Python's type hints as JSON schemas, and values of JSON as what the hints say."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

Schema = dict[str, Any]


class Hinted(NamedTuple):
    """A hint's schema, and what makes a value of what JSON gave: it raises ValueError, and what
    constructors raise. It is told what the value is called."""

    schema: Schema
    value: Callable[[Any, str], Any]


class Member(NamedTuple):
    """Of an object: a hint, whether it may be left out, and what is known of it."""

    hint: Any
    is_optional: bool = False
    description: str = ""


_SIMPLE: Final[
    dict[Any, tuple[str, Any, str]]
] = {  # what JSON gives, which types are taken for it, and what they are called
    str: ("string", str, "a string"),
    bool: ("boolean", bool, "true or false"),
    int: ("integer", int, "an integer"),
    float: ("number", int | float, "a number"),
    types.NoneType: ("null", types.NoneType, "null"),
}


def hinted(hint: Any, name: str) -> Hinted:
    """What a hint says of a value by that name. Raises ValueError for one that has no schema."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, inspect.Parameter.empty):
        return Hinted({}, lambda value, name: value)
    if hint in _SIMPLE:
        return _simple(hint)
    if origin is typing.Annotated:
        about = hinted(arguments[0], name)
        text = " ".join(each for each in arguments[1:] if isinstance(each, str))
        return about._replace(schema=about.schema | ({"description": text} if text else {}))
    if origin is typing.Literal:
        return _one_of({each: each for each in arguments})
    if origin in (typing.Union, types.UnionType):
        return _any_of([hinted(each, name) for each in arguments])
    if (origin or hint) in (list, Sequence, tuple):
        return _list(origin or hint, arguments, name)
    if (origin or hint) in (dict, Mapping):
        return _dict(hinted((*arguments, Any, Any)[1], name))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _one_of({each.value: each for each in hint})
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints, absent = typing.get_type_hints(hint, include_extras=True), dataclasses.MISSING
        optional = {
            each.name: each.default is not absent or each.default_factory is not absent
            for each in dataclasses.fields(hint) if each.init
        }  # fmt: skip
        return objects({key: Member(hints[key], optional[key]) for key in optional}, hint, name)
    if typing.is_typeddict(hint):
        hints = typing.get_type_hints(hint)
        needed = hint.__required_keys__
        return objects({key: Member(hints[key], key not in needed) for key in hints}, dict, name)
    if hasattr(hint, "model_validate"):  # of pydantic
        return Hinted(hint.model_json_schema(), lambda value, _: hint.model_validate(value))
    raise ValueError(f"{name} has the type {hint!r}, which has no JSON schema")


def objects(members: Mapping[str, Member], make: Callable[..., Any], name: str) -> Hinted:
    """Of an object with these members, from which `make` makes a value."""
    of_each = {key: hinted(each.hint, f"{name}.{key}") for key, each in members.items()}
    needed = [key for key, each in members.items() if not each.is_optional]
    texts = {key: each.description for key, each in members.items()}
    schema = {
        "type": "object",
        "properties": {
            key: each.schema | ({"description": texts[key]} if texts[key] else {})
            for key, each in of_each.items()
        },
        "required": needed, "additionalProperties": False,
    }  # fmt: skip

    def value(given: Any, name: str) -> Any:
        if not isinstance(given, Mapping):
            raise _wrong(name, given, "an object")
        wrong = [f"has no {key!r}" for key in needed if key not in given]
        wrong += [f"has {key!r}, which there is not" for key in given if key not in of_each]
        if wrong:
            raise ValueError(f"{name} {' and '.join(wrong)}; it has {', '.join(of_each) or 'none'}")
        return make(**{key: of_each[key].value(item, key) for key, item in given.items()})

    return Hinted(schema, value)


def _simple(hint: type) -> Hinted:
    type_name, taken, noun = _SIMPLE[hint]

    def value(given: Any, name: str) -> Any:
        if hint is int and isinstance(given, float) and given.is_integer():
            return int(given)
        if not isinstance(given, taken) or (isinstance(given, bool) and hint is not bool):
            raise _wrong(name, given, noun)
        return float(given) if hint is float else given

    return Hinted({"type": type_name}, value)


def _one_of(values: Mapping[Any, Any]) -> Hinted:
    def value(given: Any, name: str) -> Any:
        for key, each in values.items():
            if type(key) is type(given) and key == given:
                return each
        raise _wrong(name, given, f"one of {', '.join(map(repr, values))}")

    return Hinted({"enum": [*values]}, value)


def _any_of(some: Sequence[Hinted]) -> Hinted:
    def value(given: Any, name: str) -> Any:
        errors = []
        for each in some:
            try:
                return each.value(given, name)
            except (ValueError, TypeError) as error:
                errors.append(str(error))
        raise ValueError("; or ".join(errors))

    return Hinted({"anyOf": [each.schema for each in some]}, value)


def _list(kind: Any, arguments: Sequence[Any], name: str) -> Hinted:
    if kind is tuple and arguments[1:] != (...,):
        raise ValueError(f"{name} is a tuple; it must be a list, or tuple[..., ...] of one type")
    of_each = hinted((*arguments, Any)[0], f"{name}[]")

    def value(given: Any, name: str) -> Any:
        if not isinstance(given, list):
            raise _wrong(name, given, "a list")
        items = [of_each.value(item, f"{name}[{i}]") for i, item in enumerate(given)]
        return tuple(items) if kind is tuple else items

    return Hinted({"type": "array", "items": of_each.schema}, value)


def _dict(of_each: Hinted) -> Hinted:
    def value(given: Any, name: str) -> Any:
        if not isinstance(given, Mapping):
            raise _wrong(name, given, "an object")
        return {key: of_each.value(item, f"{name}.{key}") for key, item in given.items()}

    return Hinted({"type": "object", "additionalProperties": of_each.schema}, value)


def _wrong(name: str, given: Any, limits: str) -> ValueError:
    return ValueError(f"{name} is {given!r}; it must be {limits}")
