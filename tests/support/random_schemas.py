"""Random JSON schemas, of what programs ask for, and now and then of what cannot be enforced."""

from __future__ import annotations

from random import Random
from typing import Any

Schema = dict[str, Any]
NAMES = ("name", "age", "tags", "kind", "items", "a b", "ключ", "x-y", 'q"', "", "note", "sum")
PATTERNS = ("^[a-z]+$", "^\\d{3}-\\d{2}$", "^(a|b)*c$", "[A-Z]")
FORMATS = ("date", "time", "date-time", "uuid", "email", "ipv4", "hostname")
CONSTANTS = (None, True, 0, -1.5, "yes", "no", "é\n", [], [1, "a"], {"k": 1})
ODD = (
    {"not": {"type": "string"}}, {"type": "array", "uniqueItems": True}, {"type": "strings"},
    {"type": "string", "pattern": "(?=a)"}, {"$ref": "#/$defs/none"}, {"enum": []},
    {"type": "object", "patternProperties": {"(": {}}}, {"type": "string", "format": "of-none"},
)  # fmt: skip


def random_schema(rng: Random, depth: int = 3) -> Schema:
    """One that nests at most that deep."""
    kinds = [_number, _text, _constant, _one_type]
    if depth:
        kinds += [_object, _object, _object, _array, _array, _union, _all_of]
    return rng.choice(kinds)(rng, depth - 1)


def odd_schema(rng: Random) -> Schema:
    """One that has something in it that cannot be enforced."""
    schema: Schema = rng.choice(ODD)
    for _ in range(rng.randrange(3)):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _object(rng: Random, depth: int) -> Schema:
    names = rng.sample(NAMES, rng.randrange(5))
    schema: Schema = {"type": "object"}
    schema["properties"] = {name: random_schema(rng, depth) for name in names}
    schema["required"] = [name for name in names if rng.random() < 0.7]
    if rng.random() < 0.7:
        more = random_schema(rng, 0) if rng.random() < 0.2 else False
        schema["additionalProperties"] = more
    return schema


def _array(rng: Random, depth: int) -> Schema:
    schema: Schema = {"type": "array", "items": random_schema(rng, depth)}
    if rng.random() < 0.7:
        schema["minItems"] = rng.randrange(3)
        schema["maxItems"] = schema["minItems"] + rng.randrange(3)
    if rng.random() < 0.2:
        schema["prefixItems"] = [random_schema(rng, depth) for _ in range(rng.randrange(1, 3))]
    return schema


def _union(rng: Random, depth: int) -> Schema:
    of = rng.choice(["anyOf", "anyOf", "oneOf"])
    return {of: [random_schema(rng, depth) for _ in range(rng.randrange(1, 4))]}


def _all_of(rng: Random, _: int) -> Schema:
    return {"allOf": [random_schema(rng, 0)]}


def _number(rng: Random, _: int) -> Schema:
    schema: Schema = {"type": rng.choice(["integer", "integer", "number"])}
    low = rng.randrange(-50, 50)
    for name, bound in (("minimum", low), ("maximum", low + rng.randrange(200))):
        if rng.random() < 0.6:
            schema[rng.choice([name, name, f"exclusive{name.title()}"])] = bound
    if rng.random() < 0.1:
        schema["multipleOf"] = rng.choice([2, 5, 0.5])
    return schema


def _text(rng: Random, _: int) -> Schema:
    schema: Schema = {"type": "string"}
    kind = rng.random()
    if kind < 0.4:
        schema["maxLength"] = rng.randrange(1, 12)
        schema["minLength"] = rng.randrange(schema["maxLength"] + 1)
    elif kind < 0.6:
        schema["pattern"] = rng.choice(PATTERNS)
    elif kind < 0.8:
        schema["format"] = rng.choice(FORMATS)
    return schema


def _constant(rng: Random, _: int) -> Schema:
    if rng.random() < 0.3:
        return {"const": rng.choice(CONSTANTS)}
    return {"enum": rng.sample(CONSTANTS, rng.randrange(1, 5))}


def _one_type(rng: Random, _: int) -> Schema:
    return {"type": rng.choice(["boolean", "null", ["string", "null"], ["integer", "boolean"]])}
