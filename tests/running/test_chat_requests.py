"""Answers to conversations that are held to calls, shapes and budgets, by a model that would say
anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.tiny_llama import chat_model

from linnet import LLM, AsyncLLM
from linnet.engine.sampling.constraint import ConstraintError

pytest.importorskip("llguidance")
TEMPLATE = """
{%- for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}assistant:
{%- if think %}<think>{% elif no_think %}<think></think>{% endif %}
{#- <think> </think> <tool_call></tool_call> #}"""
CHANNELS = "{{ messages[0].content }}<|start|>assistant{# <|channel|><|message|> #}"
ASKED = [{"role": "user", "content": "hello"}]
AGE = {"type": "integer", "minimum": 0, "maximum": 99}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": [*properties]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("f", n=AGE), tool("g", b={"type": "boolean"})]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = chat_model(TEMPLATE, n_ctx=1024)
    return str(model.write(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture(scope="module")
def llm(path: str) -> Iterator[LLM]:
    with LLM(path) as llm:
        yield llm


@pytest.mark.parametrize("seed", range(3))
def test_a_call_can_be_required(llm: LLM, seed: int) -> None:
    wanted: dict[str, Any] = {"tools": TOOLS, "seed": seed, "parallel_tool_calls": False}
    for choice, names in (("required", {"f", "g"}), ("g", {"g"})):
        output = llm.chat(ASKED, tool_choice=choice, **wanted)
        assert (output.finish_reason, output.content) == ("stop", "")
        (call,) = output.tool_calls
        assert call["function"]["name"] in names
        assert [*call["function"]["arguments"]] == [{"f": "n", "g": "b"}[call["function"]["name"]]]


def test_several_calls_may_be_required(llm: LLM) -> None:
    wanted: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 200}
    outputs = [llm.chat(ASKED, seed=seed, **wanted) for seed in range(6)]
    assert all(output.content == "" for output in outputs)
    done = [output for output in outputs if output.finish_reason == "stop"]
    assert max(len(output.tool_calls) for output in done) > 1
    assert all(output.tool_calls for output in done)


def test_tasks_get_the_same(llm: LLM) -> None:
    wanted: dict[str, Any] = {"tools": TOOLS, "tool_choice": "f", "parallel_tool_calls": False}

    async def main() -> Any:
        return await AsyncLLM(llm).chat(ASKED, seed=5, **wanted)

    assert asyncio.run(main()).tool_calls == llm.chat(ASKED, seed=5, **wanted).tool_calls


def test_no_call_is_made_of_none(llm: LLM) -> None:
    output = llm.chat(ASKED, tools=TOOLS, tool_choice="none", max_tokens=5)
    assert not output.tool_calls


@pytest.mark.parametrize("think", [True, False])
def test_a_shape_begins_where_the_reasoning_ends(llm: LLM, think: bool) -> None:
    output = llm.chat(
        ASKED, json_schema=AGE, reasoning_budget=5, seed=2, max_tokens=200,
        chat_template_kwargs={"think" if think else "no_think": True},
    )  # fmt: skip
    assert 0 <= json.loads(output.content or "") <= 99
    assert bool(output.reasoning) is think


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_budget_closes_the_reasoning(llm: LLM, budget: int) -> None:
    output = llm.chat(
        ASKED, reasoning_budget=budget, seed=3, max_tokens=40, ignore_eos=True,
        chat_template_kwargs={"think": True},
    )  # fmt: skip
    closing = len(llm.tokenizer.encode("</think>", add_special=False))
    closed = llm.tokenizer.decode(output.token_ids[: budget + closing], skip_special=False)
    assert "</think>" in closed
    assert output.content


def test_an_answer_in_a_shape_may_be_a_call(llm: LLM) -> None:
    shaped: dict[str, Any] = {"tools": TOOLS, "choice": ["yes"], "max_tokens": 300}
    outputs = [llm.chat(ASKED, seed=seed, **shaped) for seed in range(12)]
    assert {output.content for output in outputs} == {"yes", ""}
    assert all(output.tool_calls for output in outputs if not output.content)


def test_a_shape_is_that_of_the_last_channel(path: str) -> None:
    with LLM(path, chat_template=CHANNELS) as llm:
        output = llm.chat(ASKED, choice=["yes", "no"], seed=1, max_tokens=600)
        assert output.finish_reason == "length" or output.content in ("yes", "no")
        with pytest.raises(ValueError, match="reasons in channels"):
            llm.chat(ASKED, reasoning_budget=5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tool_choice": "h", "tools": TOOLS}, "or the name of one of the tools: f, g"),
        ({"tool_choice": "required"}, "none are given"),
        ({"tool_choice": "required", "tools": [*TOOLS, tool("h", x={"type": "wat"})]}, "'h'.*wat"),
        ({"reasoning_budget": -1}, "reasoning_budget is -1"),
    ],
)
def test_what_cannot_be_is_refused(llm: LLM, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        llm.chat(ASKED, **options)


def test_a_model_that_shows_no_calls_is_not_made_to_call(path: str) -> None:
    with (
        LLM(path, chat_template="{{ messages[0].content }}") as llm,
        pytest.raises(ConstraintError, match="does not show how this model calls"),
        pytest.warns(UserWarning, match="leaves out the tools"),
    ):
        llm.chat(ASKED, tools=TOOLS, tool_choice="required")
