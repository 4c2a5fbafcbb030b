"""Answers in a shape, of a real model: valid, and the same bits however they come about."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from random import Random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.known_drafts import at_fixed_costs
from support.random_schemas import random_schema

from linnet import LLM, AsyncLLM, Output, SamplingParams
from linnet.engine.sampling.constraint import ConstraintError
from linnet.engine.text.stopping import StopMatcher

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["tall", "short"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"], "additionalProperties": False,
}  # fmt: skip
SHAPES: list[dict[str, Any]] = [
    {"json_schema": PERSON}, {"json_schema": {}}, {"regex": "[0-9]{3}-[a-z]{2,9}"},
    {"choice": ["yes", "no", "perhaps"]}, {"grammar": 'root ::= "x" root | "y"'}, {},
]  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> Iterator[LLM]:
    with LLM(n_ctx=256, spec_type="none", n_threads=2) as llm:
        yield llm


@pytest.fixture(scope="module")
def drafting() -> Iterator[LLM]:
    with LLM(n_ctx=256, n_threads=1) as llm:
        yield llm


def facts(output: Output) -> tuple[Any, ...]:
    return output.text, output.token_ids, output.finish_reason, output.logprobs


@given(st.integers(0, 2**32))
@settings(max_examples=60)
def test_what_is_finished_is_valid(plain: LLM, seed: int) -> None:
    schema = random_schema(Random(seed))
    how = SamplingParams(json_schema=schema, temperature=1, seed=1, max_tokens=80)
    (output,) = plain.generate(["x = "], how, return_exceptions=True)
    if isinstance(output, Exception):
        assert isinstance(output, ConstraintError)
        return
    assert output.finish_reason in ("stop", "length")
    if output.finish_reason == "stop":
        jsonschema.validate(json.loads(output.text), schema)


def test_most_random_schemas_can_be_enforced(plain: LLM) -> None:
    n = 0
    for seed in range(100):
        try:
            plain.constraints.of(SamplingParams(json_schema=random_schema(Random(seed))))
            n += 1
        except ConstraintError:
            pass
    assert n > 80


@given(
    shape=st.sampled_from(SHAPES), seed=st.integers(0, 99), n=st.integers(0, 60),
    stop=st.lists(st.sampled_from(['"', "a", ", ", "}", "9", '{"name"', "x"]), max_size=2),
    min_tokens=st.integers(0, 4),
)  # fmt: skip
@settings(max_examples=60)
def test_the_parts_are_the_whole(
    plain: LLM, shape: dict[str, Any], seed: int, n: int, stop: list[str], min_tokens: int
) -> None:
    """Whatever stops an answer, what came piece by piece is a beginning of what comes without."""
    how: dict[str, Any] = {"temperature": 1, "seed": seed, "logprobs": 1}
    how |= {"min_tokens": min(n, min_tokens)} | shape
    whole = plain.generate("def f(", max_tokens=60, **how)
    chunks = list(plain.stream("def f(", max_tokens=n, stop=stop, **how))
    output = Output.of(chunks)
    assert "".join(chunk.text for chunk in chunks) == output.text
    assert output.token_ids == whole.token_ids[: len(output.token_ids)]
    assert (output.logprobs or []) == (whole.logprobs or [])[: len(output.token_ids)]
    matched = StopMatcher(stop)
    expected = matched.push(plain.tokenizer.decode(output.token_ids)) + matched.finish()
    assert output.text == expected
    if output.finish_reason == "length":
        assert len(output.token_ids) == n
    else:
        assert matched.matched or output.token_ids == whole.token_ids


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_drafts_change_no_bit(
    plain: LLM, drafting: LLM, monkeypatch: pytest.MonkeyPatch, shape: dict[str, Any]
) -> None:
    at_fixed_costs(monkeypatch)
    n_accepted = 0
    for seed in range(6):
        how: dict[str, Any] = {"temperature": seed % 2, "seed": seed, "max_tokens": 60} | shape
        expected, found = (llm.generate("x = {", **how) for llm in (plain, drafting))
        assert facts(found) == facts(expected)
        n_accepted += found.stats.n_accepted
    if shape.get("json_schema") == PERSON:
        assert n_accepted > 20


def test_keys_are_drafted_where_nothing_else_knows_them(
    drafting: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_fixed_costs(monkeypatch)
    schema = {"const": {"a rather long key, which": "no text before it has", "and": [1, 2, 3]}}
    output = drafting.generate("x", json_schema=schema, temperature=1, seed=1)
    assert output.finish_reason == "stop"
    assert json.loads(output.text) == schema["const"]
    assert output.stats.n_accepted > 10


def test_neighbours_and_lost_slots_change_no_bit(plain: LLM) -> None:
    """Requests of all shapes, read a little at a time: those nobody reads lose their slots."""
    hows = [{"temperature": 1, "seed": i, "max_tokens": 24} | SHAPES[i] for i in range(6)]
    expected = [facts(plain.generate("x = {", **how)) for how in hows]
    together = plain.generate(["x = {"] * 6, [SamplingParams(**how) for how in hows])
    assert [facts(output) for output in together] == expected
    with LLM(n_ctx=256, n_parallel=2, n_threads=1) as llm:
        streams = [llm.stream("x = {", **how) for how in hows]
        chunks: list[list[Any]] = [[] for _ in hows]
        rng = Random(1)
        while left := [i for i in range(6) if not (chunks[i] and chunks[i][-1].finish_reason)]:
            i = rng.choice(left)
            chunks[i] += islice(streams[i], rng.randrange(1, 9))
        assert [facts(Output.of(each)) for each in chunks] == expected
        left_early = llm.stream("x = {", json_schema={}, max_tokens=40)
        next(left_early)
        left_early.close()
        assert facts(llm.generate("x = {", **hows[0])) == expected[0]


def test_threads_and_tasks_may_all_have_shapes(plain: LLM) -> None:
    hows = [{"temperature": 1, "seed": i, "max_tokens": 30} | SHAPES[i % 6] for i in range(12)]
    expected = [facts(plain.generate("x = {", **how)) for how in hows]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda how: plain.generate("x = {", **how), hows)
        assert [facts(output) for output in found] == expected

    async def main() -> list[Output]:
        async with AsyncLLM(n_ctx=256) as llm:
            return await asyncio.gather(*(llm.generate("x = {", **how) for how in hows))

    assert [facts(output) for output in asyncio.run(main())] == expected


def test_a_limit_cuts_and_says_so(plain: LLM) -> None:
    output = plain.generate("x", json_schema=PERSON, temperature=0, max_tokens=3)
    assert (output.finish_reason, len(output.token_ids)) == ("length", 3)
    whole = plain.generate("x", choice=["yes"], temperature=0)
    n = len(whole.token_ids)
    assert plain.generate("x", choice=["yes"], temperature=0, max_tokens=n).finish_reason == "stop"
    assert plain.generate("x", choice=["yes"], max_tokens=0).text == ""


def test_an_answer_may_go_on_where_it_could_end(plain: LLM) -> None:
    how: dict[str, Any] = {"regex": "[ab]+", "temperature": 1, "seed": 1, "max_tokens": 12}
    output = plain.generate("x", **how, ignore_eos=True)
    assert (output.finish_reason, len(output.token_ids)) == ("length", 12)
    assert set(output.text) <= {"a", "b"}
    assert len(plain.generate("x", **how, min_tokens=9).token_ids) >= 9
    assert plain.generate("x", choice=["yes"], ignore_eos=True).finish_reason == "stop"


def test_a_bias_that_leaves_nothing_ends_that_request_alone(plain: LLM) -> None:
    ids = range(plain.config.n_vocab)
    nothing = SamplingParams(choice=["yes"], logit_bias=dict.fromkeys(ids[3:], float("-inf")))
    fine = SamplingParams(choice=["yes"])
    found = plain.generate(["x", "x"], [nothing, fine], return_exceptions=True)
    assert "the answer's shape" in str(found[0])
    assert isinstance(found[1], Output)
    assert found[1].text == "yes"
