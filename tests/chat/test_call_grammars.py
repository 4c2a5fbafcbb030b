"""What a format's grammar lets a model write, its reader reads: calls of the tools that are there,
whose arguments their schemas allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from support.byte_pairs import CONTROL, NORMAL, build

from linnet.engine.chat.answers import AnswerReader, marker_tokens
from linnet.engine.chat.formats.grammar import GrammarError, Lark, Tool
from linnet.engine.chat.formats.parts import Format, Part, Wanted, joined
from linnet.engine.chat.formats.table import FORMATS
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
    while not constraint.is_over and len(ids) < 2000:
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


def read(format: Format, tokenizer: Tokenizer, prompt: str, ids: list[int]) -> Part:
    encoded = tokenizer.encode(prompt, add_special=False, parse_special=True)
    reader = AnswerReader(format, tokenizer, encoded, skip_special=True, tools=tools())
    text = StoppingDetokenizer(tokenizer, (), skip_special=True)
    parts = [reader.push(token_id, text.push(token_id)) for token_id in ids]
    return joined([*parts, reader.push(None, text.finish())])


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
    grammars = format.call_grammars(lambda: lark(format, tokenizer), offered)
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


def test_names_of_tools_are_words() -> None:
    with pytest.raises(GrammarError, match="it must be of letters"):
        Tool.all([{"function": {"name": 'a"b'}}])
