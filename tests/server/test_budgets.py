"""How long a model reasons: budgets in the words of every API, and shapes after the reasoning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.serving import TEMPLATE, Running, asked, serving

from linnet import LLM

OPENED = TEMPLATE.replace("<think></think>", "<think></think>{% else %}<think>")
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
SCHEMA = {
    "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
    "additionalProperties": False,
}  # fmt: skip
BY_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
CUT = {"max_tokens": 40, "stop": "</think>", "temperature": 0}
OTHER = {"max_output_tokens": 40, "stop": "</think>", "temperature": 0}
FUNCTION = {"name": "f", "description": "does it", "parameters": SCHEMA}


def open_model() -> LLM:
    """One whose prompts open the reasoning."""
    return LLM(chat_template=OPENED)


@pytest.fixture(scope="module")
def thinker() -> Iterator[Running]:
    """A server that lets it reason for 6 tokens, if nothing else is said."""
    with serving(open_model, reasoning_budget=6) as running:
        yield running


def test_it_is_closed_after_so_many_tokens(thinker: Running) -> None:
    closing = thinker.llm.tokenizer.encode("</think>", add_special=False)

    def n_tokens(**fields: Any) -> int:
        """Of reasoning, at whose end the answer stops; at most 40 with its closing tag."""
        usage = thinker.answer(CHAT, **asked(**{**CUT, **fields}))["usage"]
        n: int = usage["completion_tokens"] - len(closing)
        return n

    assert n_tokens() == 6  # the server's own
    assert n_tokens(reasoning_budget=-1) == 40 - len(closing)
    for name in ("reasoning_budget", "reasoning_budget_tokens", "thinking_budget_tokens"):
        assert n_tokens(**{name: 3}) == 3
        assert n_tokens(**{name: 0}) == 0


def test_anthropics_budget(thinker: Running) -> None:
    how = {"model": "m", "messages": asked()["messages"], "max_tokens": 40, "temperature": 0}

    def n_tokens(thinking: Any) -> int:
        body = thinker.answer(MESSAGES, **how, stop_sequences=["</think>"], thinking=thinking)
        n: int = body["usage"]["output_tokens"]
        return n

    short, usual, long = map(n_tokens, [
        {"type": "enabled", "budget_tokens": 2}, {"type": "adaptive"},
        {"type": "enabled", "budget_tokens": 1024},
    ])  # fmt: skip
    assert (usual - short, long) == (4, 40)


def test_responses_have_the_servers(thinker: Running) -> None:
    usage = thinker.answer(RESPONSES, input="def f(x):", **OTHER)["usage"]
    chat = thinker.answer(CHAT, **asked(**CUT))["usage"]
    assert usage["output_tokens"] == chat["completion_tokens"] < 40


def test_a_shape_begins_after_the_reasoning(thinker: Running) -> None:
    body = thinker.answer(CHAT, **asked(max_tokens=80, response_format=BY_SCHEMA))
    message = body["choices"][0]["message"]
    assert message["reasoning_content"]
    assert json.loads(message["content"]) in ({"a": True}, {"a": False})


def test_so_does_a_call(thinker: Running) -> None:
    body = thinker.answer(
        CHAT, **asked(
            max_tokens=200, tools=[{"type": "function", "function": FUNCTION}],
            tool_choice="required", parallel_tool_calls=False,
        )
    )  # fmt: skip
    message = body["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert message["reasoning_content"]
    assert json.loads(call["function"]["arguments"]) in ({"a": True}, {"a": False})
