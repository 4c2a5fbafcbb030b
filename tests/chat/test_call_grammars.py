"""What a format's grammar lets a model write, its reader reads: calls of the tools that are there,
whose arguments their schemas allow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from support.byte_pairs import CONTROL, NORMAL, build

from linnet.engine.chat.answers import AnswerReader, marker_tokens
from linnet.engine.chat.formats.grammar import Lark
from linnet.engine.chat.formats.json_calls import JsonCalls
from linnet.engine.chat.formats.parts import Format, Part, Wanted, joined, tool_call
from linnet.engine.chat.formats.schemas import GrammarError, Tool
from linnet.engine.chat.formats.table import FORMATS
from linnet.engine.openai.answers import complete_calls
from linnet.engine.sampling.constraint import (
    JSON_OPTIONS,
    Constraint,
    ConstraintError,
    Constraints,
    containing,
    lark_grammar,
)
from linnet.engine.sampling.triggered import Triggered
from linnet.engine.text.stopping import StoppingDetokenizer
from linnet.engine.text.tokenizer import Tokenizer
from linnet.kernels.compiler.jit import Library

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

LONGEST = 2000  # tokens of an answer
DEEP: dict[str, Any] = {}
for _ in range(2000):
    DEEP = {"properties": {"a": DEEP}}
TEXT: dict[str, Any] = {"type": "string"}
SCHEMAS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "texts": {"a": {"type": "string", "maxLength": 3}, "b": {"enum": ["x/y", "<z>", "é\n"]}},
    "numbers": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"type": "boolean"}},
    "nullable": {"a": {"type": ["string", "null"], "maxLength": 2}, "c": {"const": "it's"}},
    "either": {"a": {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "integer"}]}},
    "pattern": {"a": {"type": "string", "pattern": "^[a-c]/[0-9]$"}},
    "list": {"l": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2}},
    "object": {"o": {"type": "object", "properties": {"k": {"type": "string", "maxLength": 2}},
                     "required": ["k"], "additionalProperties": False}},
    "referring": {"r": {"$ref": "#/$defs/short"}},
}  # fmt: skip


def tools() -> list[dict[str, Any]]:
    made = []
    for name, properties in SCHEMAS.items():
        parameters: dict[str, Any] = {"type": "object", "properties": properties}
        parameters["required"] = [*properties][:1]
        parameters["$defs"] = {"short": {"type": "string", "maxLength": 2}}
        made.append({"type": "function", "function": {"name": name, "parameters": parameters}})
    return made


@cache
def tokenizer_of(name: str, type: int) -> Tokenizer:
    """With the format's markers as tokens of a type."""
    markers = [*FORMATS[name].format.markers, '"', "\n", "ab"]
    return build(specials=dict.fromkeys(markers[:-3], type))


@pytest.fixture(scope="module")
def constraints_of(best_library: Library) -> Callable[[str, int], Constraints]:
    return cache(lambda name, type: Constraints(tokenizer_of(name, type), best_library))


def lark(format: Format, tokenizer: Tokenizer) -> Lark:
    return Lark(marker_tokens(format, tokenizer), JSON_OPTIONS)


@cache
def _closing(tokenizer: Tokenizer) -> Any:
    """Whether each token begins as what ends a value may."""
    ids = range(tokenizer.n_vocab)
    return np.array([tokenizer.token_bytes(i)[:1] in [*map(bytes, zip(b'"\\\n}])<'))] for i in ids])


def walk(constraint: Constraint, tokenizer: Tokenizer, seed: int) -> list[int]:
    """A random answer, which ends as soon as it may from some length on."""
    random, ids = np.random.default_rng(seed), list[int]()
    ends, closing = sorted(tokenizer.eog_ids), _closing(tokenizer)
    words = constraint.mask.words
    while not constraint.is_over and len(ids) < LONGEST:
        constraint.fill()
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")[: tokenizer.n_vocab]
        allowed = np.flatnonzero(bits)
        assert len(allowed), "nothing can follow"
        if bits[ends].any() and random.random() < 0.5:
            break
        bits[ends] = 0
        some = np.flatnonzero(bits & closing)
        ends_some = len(some) and random.random() < 0.3  # or texts would seldom end
        allowed = some if ends_some else np.flatnonzero(bits)
        ids.append(int(random.choice(allowed)))
        constraint.accept(ids[-1])
    return ids


def read(
    format: Format, tokenizer: Tokenizer, prompt: str, ids: list[int], *more: dict[str, Any]
) -> Part:
    """What is read of an answer, the same whether or not calls are told in pieces."""
    encoded = tokenizer.encode(prompt, add_special=False, parse_special=True)
    found = []
    for held in ((), format.begins_calls):
        reader = AnswerReader(
            format, tokenizer, encoded, skip_special=True, tools=[*tools(), *more], held=held
        )
        text = StoppingDetokenizer(tokenizer, (), skip_special=True)
        parts = [reader.push(token_id, text.push(token_id)) for token_id in ids]
        found.append(joined([*parts, reader.push(None, text.finish())]))
    whole, in_pieces = found
    calls = [tool_call(name, json.loads(text)) for name, text in complete_calls(in_pieces)]
    assert [*whole.tool_calls] == calls == [*in_pieces.tool_calls]
    calls_of_format = getattr(format, "calls", None)
    if isinstance(calls_of_format, JsonCalls) and "tool_call_id" not in calls_of_format.keys:
        assert len(in_pieces.pieces) > len(calls)
    return whole


def check(part: Part, offered: list[dict[str, Any]]) -> None:
    schemas = {t["function"]["name"]: t["function"]["parameters"] for t in offered}
    for call in part.tool_calls:
        function = call["function"]
        assert function["name"] in schemas
        jsonschema.validate(function["arguments"], schemas[function["name"]])


def prompt_of(name: str) -> str:
    return "<|start|>assistant" if name == "harmony" else ""


def writable(name: str) -> Iterator[dict[str, Any]]:
    """The tools that calls in a format can be held to."""
    format = FORMATS[name].format
    for tool in tools():
        wanted = Wanted(tools=Tool.all([tool]), must_call=True)
        try:
            format.grammar(Lark({}, JSON_OPTIONS), wanted, prompt_of(name))
        except GrammarError:
            continue
        yield tool


MADE = [(name, type) for name in FORMATS for type in (CONTROL, NORMAL)]
MADE.remove(("harmony", NORMAL))  # whose reasoning, at random, would hardly spell its end


@pytest.mark.parametrize(("name", "type"), MADE)
def test_what_is_required_is_read(
    name: str, type: int, constraints_of: Callable[[str, int], Constraints]
) -> None:
    format, tokenizer = FORMATS[name].format, tokenizer_of(name, type)
    offered = [*writable(name)]
    assert len(offered) == len(SCHEMAS)
    for seed, tool in enumerate(offered):
        several, some = seed % 2 == 0, [tool] if seed else offered
        wanted = Wanted(tools=Tool.all(some), must_call=True, several=several)
        text = format.grammar(lark(format, tokenizer), wanted, prompt_of(name))
        assert text is not None
        constraint = constraints_of(name, type).make(containing(text, "shape", None))
        ids = walk(constraint, tokenizer, seed)
        part = read(format, tokenizer, prompt_of(name), ids)
        said = tokenizer.decode(ids, skip_special=False)
        assert part.tool_calls, said
        assert not part.content, said
        assert several or len(part.tool_calls) == 1, said
        check(part, some)


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_that_has_begun_is_read(
    name: str, constraints_of: Callable[[str, int], Constraints]
) -> None:
    """Where a token begins it; text is free before and after."""
    format, tokenizer = FORMATS[name].format, tokenizer_of(name, CONTROL)
    constraints = constraints_of(name, CONTROL)
    offered = [*writable(name)]
    grammars = format.call_grammars(lambda: lark(format, tokenizer), Tool.all(offered))
    assert grammars or name in ("harmony", "minimax", "functionary")
    for token_id, text in grammars.items():
        begun = constraints.make(lark_grammar(text))
        rule = Triggered({token_id: begun}, constraints.mask)
        before = tokenizer.encode("hello", add_special=False)
        for each in before:
            assert rule.is_free
            rule.accept(each)
        rule.accept(token_id)
        assert not rule.is_free
        begun = begun.copy()
        begun.accept(token_id)
        ids = walk(begun, tokenizer, seed=token_id)
        for each in ids:
            rule.accept(each)
        assert rule.is_free is begun.is_over
        part = read(format, tokenizer, "", [*before, token_id, *ids])
        assert part.content == "hello"
        assert part.tool_calls
        check(part, offered)


@pytest.mark.parametrize("seed", range(8))
def test_where_no_reasoning_may_come_there_are_messages_and_calls(
    seed: int, constraints_of: Callable[[str, int], Constraints]
) -> None:
    format, tokenizer = FORMATS["harmony"].format, tokenizer_of("harmony", CONTROL)
    wanted = Wanted(tools=Tool.all(tools()) if seed % 2 else (), reasons=False)
    text = format.grammar(lark(format, tokenizer), wanted, "")
    assert text is not None
    constraint = constraints_of("harmony", CONTROL).make(lark_grammar(text))
    part = read(format, tokenizer, "<|start|>assistant", walk(constraint, tokenizer, seed))
    assert not part.reasoning
    assert seed % 2 or not part.tool_calls
    check(part, tools())


@pytest.mark.parametrize("name", FORMATS)
def test_what_cannot_be_held_to_its_schema_can_be_held_to_its_form(
    name: str, constraints_of: Callable[[str, int], Constraints]
) -> None:
    """Keys are those of the schema, where the format has them one by one, and texts are texts."""
    parameters = {
        "type": "object", "properties": {"a": {"type": "string", "format": "no-such"}},
        "oneOf": [{"properties": {"b": {"type": "integer", "not": {"const": 1}}}}, {}],
    }  # fmt: skip
    tool = {"name": "f", "parameters": parameters}
    format, tokenizer = FORMATS[name].format, tokenizer_of(name, CONTROL)
    wanted = Wanted(tools=[Tool.all([tool])[0].loose], must_call=True, several=False)
    text = format.grammar(lark(format, tokenizer), wanted, prompt_of(name))
    constraint = constraints_of(name, CONTROL).make(containing(text or "", "shape", None))
    for seed in range(4):
        ids = walk(constraint.copy(), tokenizer, seed)
        calls = read(format, tokenizer, prompt_of(name), ids, tool).tool_calls
        assert len(calls) == 1 or len(ids) == LONGEST  # a text need not end
        assert all(isinstance(c["function"]["arguments"].get("a", ""), str) for c in calls)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "format": "no-such"}, "no-such"),
        ({"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused(
    schema: dict[str, Any], reason: str, constraints_of: Callable[[str, int], Constraints]
) -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}}}
    format, tokenizer = FORMATS["hermes"].format, tokenizer_of("hermes", CONTROL)
    wanted = Wanted(tools=Tool.all([tool]), must_call=True)
    text = format.grammar(lark(format, tokenizer), wanted, "")
    with pytest.raises(ConstraintError, match=reason):
        constraints_of("hermes", CONTROL).make(containing(text or "", "shape", None))


@pytest.mark.parametrize("name", ["qwen-xml", "lfm2"])
def test_a_format_refuses_what_it_has_no_writing_for(name: str) -> None:
    parameters = {"type": "object", "oneOf": [{"properties": {"a": TEXT}}]}
    wanted = Wanted(tools=Tool.all([{"name": "f", "parameters": parameters}]), must_call=True)
    with pytest.raises(GrammarError, match="oneOf"):
        FORMATS[name].format.grammar(Lark({}, JSON_OPTIONS), wanted, "")


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ({"name": 'a"b'}, "it must be of letters"),
        ({"name": 1}, "a tool's name is 1"),
        (5, "a tool is 5; it must be a dict"),
        ({"name": "f", "parameters": [1]}, r"f.parameters is \[1\]; it must be a JSON schema"),
        ({"name": "f", "parameters": {"properties": {"a": 5}}}, "f.parameters.a is 5"),
        (
            {"name": "f", "parameters": {"properties": 5}},
            "properties is 5; it must be of type dict",
        ),
        ({"name": "f", "parameters": {"anyOf": [{"type": 5}]}}, "type is 5.* str or list"),
        ({"name": "f", "parameters": {"enum": 5}}, "enum is 5"),
        ({"name": "f", "parameters": DEEP}, "nested too deeply"),
    ],
)
def test_what_is_no_tool_is_refused(tool: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Tool.all([{"type": "function", "function": tool}])
