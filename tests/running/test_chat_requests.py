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


ODD: dict[str, Any] = tool("h", x={"type": "array", "uniqueItems": True})
ODD["function"]["strict"] = True
TOOLS = [tool("f", n=AGE), tool("g", b={"type": "boolean"})]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = chat_model(TEMPLATE, n_ctx=1024)
    return str(model.write(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture(scope="module")
def llm(path: str) -> Iterator[LLM]:
    with LLM(path) as llm:
        yield llm


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """One whose markers are tokens."""
    controls = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    model = chat_model(TEMPLATE, n_ctx=1024, controls=controls)
    with LLM(model.write(tmp_path_factory.mktemp("model") / "tiny.gguf")) as llm:
        yield llm


def likely(llm: LLM, *markers: str) -> dict[int, float]:
    """A bias that has the model write them wherever it may."""
    return dict.fromkeys((llm.tokenizer.vocabulary.ids[marker] for marker in markers), 100.0)


@pytest.mark.parametrize("seed", range(3))
def test_a_call_can_be_required(llm: LLM, seed: int) -> None:
    wanted: dict[str, Any] = {"tools": TOOLS, "seed": seed, "parallel_tool_calls": False}
    for choice, names in (("required", {"f", "g"}), ("g", {"g"})):
        output = llm.chat(ASKED, tool_choice=choice, **wanted)
        assert (output.finish_reason, output.content) == ("stop", "")
        (call,) = output.tool_calls
        assert call["function"]["name"] in names
        assert [*call["function"]["arguments"]] == [{"f": "n", "g": "b"}[call["function"]["name"]]]


@pytest.mark.parametrize("seed", range(3))
def test_a_call_by_name_is_one(llm: LLM, seed: int) -> None:
    output = llm.chat(ASKED, tools=TOOLS, tool_choice="f", seed=seed)
    assert (output.finish_reason, len(output.tool_calls)) == ("stop", 1)


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


@pytest.mark.parametrize("budget", [0, 6])
@pytest.mark.parametrize("more", [{}, {"tools": TOOLS}, {"choice": ["yes", "no"]}], ids=str)
def test_a_channel_of_reasoning_has_a_budget(path: str, budget: int, more: Any) -> None:
    """Behind which there is none; what follows is as it would be."""
    analysis = CHANNELS.replace("assistant{#", "assistant<|channel|>analysis<|message|>{#")
    with LLM(path, chat_template=analysis) as llm:
        output = llm.chat(ASKED, reasoning_budget=budget, seed=2, max_tokens=250, **more)
        thought = llm.tokenizer.decode(output.token_ids[:budget])
        assert output.text.startswith(f"{thought}<|end|><|start|>assistant")
        assert output.reasoning == (thought or None)
        assert "analysis" not in output.text
        if "choice" in more:
            assert output.content in more["choice"]
        else:
            assert output.content or output.tool_calls or output.finish_reason == "length"


@pytest.mark.parametrize("budget", [0, 3])
def test_reasoning_that_is_opened_again_is_of_the_same_budget(marked: LLM, budget: int) -> None:
    output = marked.chat(
        ASKED, reasoning_budget=budget, max_tokens=40, seed=1, temperature=0,
        logit_bias=likely(marked, "<think>"),
    )  # fmt: skip
    ids = marked.tokenizer.vocabulary.ids
    opening, closing = ids["<think>"], ids["</think>"]
    n_reasoning, reasons = 0, False
    for token_id in output.token_ids:
        n_reasoning += reasons and token_id != closing
        reasons = token_id == opening or (reasons and token_id != closing)
    assert output.token_ids.count(opening) > 2
    assert n_reasoning == budget


def test_a_call_that_has_begun_is_held_to_its_schema(marked: LLM) -> None:
    wanted: dict[str, Any] = {"parallel_tool_calls": False, "max_tokens": 300}
    wanted["logit_bias"] = likely(marked, "<tool_call>")
    output = marked.chat(ASKED, tools=TOOLS, seed=1, **wanted)
    (call,) = output.tool_calls
    assert [*call["function"]["arguments"]] == [{"f": "n", "g": "b"}[call["function"]["name"]]]
    with pytest.raises(ConstraintError, match=r"'h'.* strict: .*uniqueItems"):
        marked.chat(ASKED, tools=[*TOOLS, ODD], **wanted)
    odd = tool("h", x={"type": "array", "uniqueItems": True})
    with pytest.warns(UserWarning, match=r"'h'.* may be any: .*uniqueItems"):
        marked.chat(ASKED, tools=[*TOOLS, odd], **wanted)


def test_a_call_in_channels_is_held_to_its_schema(path: str) -> None:
    with LLM(path, chat_template=CHANNELS) as llm:
        for seed in range(3):
            output = llm.chat(ASKED, tools=TOOLS, seed=seed, max_tokens=300)
            assert output.text.startswith(("<|channel|>", " to=functions."))
            for call in output.tool_calls:
                assert call["function"]["name"] in ("f", "g")


def test_strict_tools_where_no_token_begins_a_call(llm: LLM) -> None:
    strict = {"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}
    with pytest.warns(UserWarning, match="no token begins a call"):
        llm.chat(ASKED, tools=[strict], max_tokens=1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tool_choice": "h", "tools": TOOLS}, "or the name of one of the tools: f, g"),
        ({"tool_choice": "required"}, "none are given"),
        ({"tool_choice": "required", "tools": [*TOOLS, ODD]}, "'h'.* strict: .*uniqueItems"),
        ({"tools": [tool("h", x={"type": 5})]}, "tools: h.parameters.x.type is 5"),
        ({"tool_choice": "f", "tools": TOOLS, "regex": "("}, "regex cannot be enforced"),
        ({"reasoning_budget": -1}, "reasoning_budget is -1"),
    ],
)
def test_what_cannot_be_is_refused(llm: LLM, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        llm.chat(ASKED, **options)


@pytest.mark.parametrize("seed", range(2))
def test_arguments_may_be_any_where_their_schema_is_more_than_can_be_enforced(
    llm: LLM, seed: int
) -> None:
    """Unless the tool is strict; the others' are held to theirs."""
    odd = tool("h", x={"type": "array", "uniqueItems": True})
    wanted: dict[str, Any] = {"parallel_tool_calls": False, "seed": seed, "tools": [*TOOLS, odd]}
    for choice in ("h", "required"):
        with pytest.warns(UserWarning, match=r"'h' cannot be held .* may be any: .*uniqueItems"):
            output = llm.chat(ASKED, tool_choice=choice, max_tokens=400, **wanted)
        if output.finish_reason == "stop":
            (call,) = output.tool_calls
            assert call["function"]["name"] in ("f", "g", "h")
            assert isinstance(call["function"]["arguments"], dict)


def test_a_model_that_shows_no_calls_is_not_made_to_call(path: str) -> None:
    with (
        LLM(path, chat_template="{{ messages[0].content }}") as llm,
        pytest.raises(ConstraintError, match="does not show how this model calls"),
        pytest.warns(UserWarning, match="leaves out the tools"),
    ):
        llm.chat(ASKED, tools=TOOLS, tool_choice="required")
