"""Forced tool calls and parsed answers, on every wire, by the clients' own parsers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import openai
import pytest
from anthropic.types import Message as AnthropicMessage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from pydantic import BaseModel
from support.serving import TEMPLATE, Running, asked, serving
from support.strict import check
from support.tiny_llama import chat_model

from linnet import LLM

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
SEEDS = range(3)
QUESTION: Any = {"role": "user", "content": "add"}


class Bird(BaseModel):
    name: Literal["wren", "linnet"]
    sings: bool


def function(name: str, **properties: Any) -> dict[str, Any]:
    """A tool, without what the APIs put around it."""
    parameters = {
        "type": "object", "properties": properties, "required": [*properties],
        "additionalProperties": False,
    }  # fmt: skip
    return {"name": name, "description": "does it", "parameters": parameters}


ADD = function("add", a={"type": "integer", "minimum": 0, "maximum": 99}, b={"enum": [1, 2]})
SHOW = function("show", what={"enum": ["sky", "sea"]})
BOTH = [ADD, SHOW]
TOOLS: Any = [{"type": "function", "function": each} for each in BOTH]
FLAT_TOOLS: Any = [{"type": "function", "strict": True, **each} for each in BOTH]
ANTHROPIC_TOOLS: Any = [
    {"name": e["name"], "description": "does it", "input_schema": e["parameters"]} for e in BOTH
]


def is_call(name: str, arguments: dict[str, Any]) -> bool:
    """Whether it is a call of one of them, as its schema has it."""
    if name == "show":
        return arguments.keys() == {"what"} and arguments["what"] in ("sky", "sea")
    a, b = arguments["a"], arguments["b"]
    return name == "add" and arguments.keys() == {"a", "b"} and 0 <= a < 100 and b in (1, 2)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of a model that has a token to begin a call with."""
    model = chat_model(TEMPLATE, n_ctx=512, controls=("<tool_call>", "</tool_call>"))
    path = model.write(tmp_path_factory.mktemp("model") / "tiny.gguf")
    with serving(lambda: LLM(path)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(server: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


# ---- a call, and nothing else --------------------------------------------------------------------

NAMED = {"type": "function", "function": {"name": "show"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("choice", "names", "reason"),
    [("required", {"add", "show"}, "tool_calls"), (NAMED, {"show"}, "stop"),
     (ALLOWED, {"show"}, "tool_calls")],
    ids=["required", "named", "allowed"],
)  # fmt: skip
def test_chat_calls(server: Running, seed: int, choice: Any, names: set[str], reason: str) -> None:
    how: dict[str, Any] = {
        "tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 200,
        "temperature": 1, "seed": seed,
    }  # fmt: skip
    body = server.answer(CHAT, **asked(**how))
    check(ChatCompletion, body)
    (answer,) = body["choices"]
    assert answer["finish_reason"] == reason
    assert answer["message"]["content"] is None
    (call,) = answer["message"]["tool_calls"]
    told = call["function"]
    assert is_call(told["name"], json.loads(told["arguments"]))
    assert told["name"] in names
    chunks = server.chat_stream(**how)
    check(ChatCompletionChunk, *chunks)
    deltas = [d for c in chunks for d in c["choices"][0]["delta"].get("tool_calls") or ()]
    assert "".join(d["function"].get("name") or "" for d in deltas) == told["name"]
    assert "".join(d["function"]["arguments"] for d in deltas) == told["arguments"]
    assert chunks[-1]["choices"][0]["finish_reason"] == reason


def test_arguments_come_as_they_are_written(server: Running) -> None:
    how: dict[str, Any] = {"tools": TOOLS[:1], "tool_choice": "required", "max_tokens": 200}
    chunks = server.chat_stream(**how, temperature=1, seed=1)
    assert sum("tool_calls" in chunk["choices"][0]["delta"] for chunk in chunks) > 5


def test_what_a_limit_cuts_off_is_no_call(server: Running) -> None:
    """Though a stream has told of its beginning."""
    long = function("f", text={"type": "string", "minLength": 500})
    tools: Any = [{"type": "function", "function": long}]
    how: dict[str, Any] = {"max_tokens": 80, "temperature": 1, "seed": 1}
    forced = how | {"tools": tools, "tool_choice": "required"}
    (choice,) = server.answer(CHAT, **asked(**forced))["choices"]
    assert (choice["finish_reason"], "tool_calls" in choice["message"]) == ("length", False)
    told = server.chat_stream(**forced)
    check(ChatCompletionChunk, *told)
    reasons = {chunk["choices"][0]["finish_reason"] for chunk in told}
    assert reasons == {None, "length"}
    assert any("tool_calls" in chunk["choices"][0]["delta"] for chunk in told)
    tool = {"name": "f", "input_schema": long["parameters"]}
    forced = how | {"messages": [QUESTION], "tools": [tool], "tool_choice": {"type": "any"}}
    body = server.answer(MESSAGES, **forced)
    assert (body["stop_reason"], body["content"]) == ("max_tokens", [])
    ends = [data for name, data in server.streamed(MESSAGES, **forced) if name == "message_delta"]
    assert [end["delta"]["stop_reason"] for end in ends] == ["max_tokens"]
    body = server.answer(
        RESPONSES, input="x", tools=[{"type": "function", **long}], tool_choice="required",
        max_output_tokens=80,
    )  # fmt: skip
    check(Response, body)
    assert body["status"] == "incomplete"
    assert {item["status"] for item in body["output"]} <= {"incomplete"}


FLAT_NAMED = {"type": "function", "name": "show"}
FLAT_ALLOWED = {"type": "allowed_tools", "mode": "required", "tools": [FLAT_NAMED]}


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"add", "show"}), (FLAT_NAMED, {"show"}), (FLAT_ALLOWED, {"show"})],
    ids=["required", "named", "allowed"],
)
def test_responses_call(server: Running, choice: Any, names: set[str]) -> None:
    body = server.answer(
        RESPONSES, input="add", tools=FLAT_TOOLS, tool_choice=choice, parallel_tool_calls=False,
        max_output_tokens=200, seed=1,
    )  # fmt: skip
    check(Response, body)
    (item,) = body["output"]
    assert (body["status"], item["type"]) == ("completed", "function_call")
    assert is_call(item["name"], json.loads(item["arguments"]))
    assert item["name"] in names
    assert body["tool_choice"] == choice


@pytest.mark.parametrize(
    ("choice", "names"),
    [({"type": "any"}, {"add", "show"}), ({"type": "tool", "name": "show"}, {"show"})],
    ids=["any", "tool"],
)
def test_messages_call(server: Running, choice: Any, names: set[str]) -> None:
    body = server.answer(
        MESSAGES, model="m", messages=[QUESTION], tools=ANTHROPIC_TOOLS, max_tokens=200,
        tool_choice={**choice, "disable_parallel_tool_use": True}, seed=1,
    )  # fmt: skip
    check(AnthropicMessage, body)
    (block,) = body["content"]
    assert (body["stop_reason"], block["type"]) == ("tool_use", "tool_use")
    assert is_call(block["name"], block["input"])
    assert block["name"] in names


def test_a_call_that_is_cut_is_none(server: Running) -> None:
    how = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 3}
    (choice,) = server.answer(CHAT, **asked(**how))["choices"]
    assert choice["finish_reason"] == "length"
    assert "tool_calls" not in choice["message"]


# ---- by the clients' parsers ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_openais_client_parses(client: openai.OpenAI, seed: int) -> None:
    how: dict[str, Any] = {"model": "m", "messages": [QUESTION], "seed": seed, "max_tokens": 100}
    whole = client.chat.completions.parse(**how, response_format=Bird).choices[0].message.parsed
    with client.chat.completions.stream(**how, response_format=Bird) as stream:
        final = stream.get_final_completion()
    assert isinstance(whole, Bird)
    assert final.choices[0].message.parsed == whole


def test_openais_client_parses_calls(client: openai.OpenAI) -> None:
    tool: Any = openai.pydantic_function_tool(Bird, name="bird")
    how: dict[str, Any] = {
        "model": "m", "messages": [QUESTION], "tools": [tool], "tool_choice": "required",
        "parallel_tool_calls": False, "seed": 1, "max_tokens": 100,
    }  # fmt: skip
    whole = client.chat.completions.parse(**how)
    with client.chat.completions.stream(**how) as stream:
        final = stream.get_final_completion()
    for completion in (whole, final):
        (call,) = completion.choices[0].message.tool_calls or ()
        assert isinstance(call.function.parsed_arguments, Bird)


def test_openais_client_parses_responses(client: openai.OpenAI) -> None:
    response = client.responses.parse(
        model="m", input="a bird", text_format=Bird, max_output_tokens=100
    )
    assert isinstance(response.output_parsed, Bird)
    text: Any = response.text
    assert (text.format.type, text.format.name) == ("json_schema", "Bird")


def test_anthropics_client_parses(claude: anthropic.Anthropic) -> None:
    message = claude.messages.parse(
        model="m", messages=[QUESTION], max_tokens=100, output_format=Bird
    )
    assert isinstance(message.parsed_output, Bird)


def test_anthropics_client_streams_a_call(claude: anthropic.Anthropic) -> None:
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    with claude.messages.stream(
        model="m", messages=[QUESTION], max_tokens=200, tools=ANTHROPIC_TOOLS, tool_choice=choice
    ) as stream:
        final = stream.get_final_message()
    (block,) = final.content
    assert block.type == "tool_use"
    assert isinstance(block.input, dict)
    assert is_call(block.name, block.input)


# ---- what is refused -----------------------------------------------------------------------------


ODD = {"type": "array", "uniqueItems": True}  # more than can be enforced


@pytest.mark.parametrize("choice", ["auto", "required", NAMED], ids=["auto", "required", "named"])
def test_a_strict_tool_that_cannot_be_held_to_is_named(held: Running, choice: Any) -> None:
    """On every path; one that is not strict may be called with any arguments."""
    bad = {**function("show", a=ODD), "strict": True}
    tools = [TOOLS[0], {"type": "function", "function": bad}]
    error = held.refusal(CHAT, 400, **asked(tools=tools, tool_choice=choice))
    assert error["param"] == "tools"
    assert "'show'" in error["message"]
    assert "uniqueItems" in error["message"]
    bad["strict"] = False
    held.answer(CHAT, **asked(tools=tools, tool_choice=choice))


def test_a_strict_tool_is_on_every_path(held: Running) -> None:
    bad = {**function("show", a=ODD), "strict": True}
    how: dict[str, Any] = {"input": "add", "tools": [{"type": "function", **bad}]}
    assert held.refusal(RESPONSES, 400, **how)["param"] == "tools"
    tool = {"name": "show", "input_schema": bad["parameters"], "strict": True}
    response = held.post(MESSAGES, messages=[QUESTION], max_tokens=8, tools=[tool])
    assert response.status_code == 400
    assert "'show'" in response.json()["error"]["message"]


def test_models_are_not_told_what_is_strict(held: Running) -> None:
    with_it, without = (
        held.answer(CHAT, **asked(tools=[{"type": "function", "function": {**SHOW, **more}}]))
        for more in ({"strict": True}, {})
    )
    assert with_it["usage"]["prompt_tokens"] == without["usage"]["prompt_tokens"]


@pytest.mark.parametrize("parameters", [5, {"properties": {"a": 5}}, {"anyOf": 5}], ids=str)
def test_parameters_are_a_schema(held: Running, parameters: Any) -> None:
    tool = {"type": "function", "function": {"name": "show", "parameters": parameters}}
    error = held.refusal(CHAT, 400, **asked(tools=[tool]))
    assert error["param"] == "tools"
    assert error["message"].startswith("tools: show.parameters")


@pytest.mark.parametrize("tool", [{"type": "function"}, {}, {"function": {"name": 1}}], ids=str)
def test_a_tool_needs_a_name(server: Running, tool: Any) -> None:
    error = server.refusal(CHAT, 400, **asked(tools=[TOOLS[0], tool]))
    assert (error["param"], error["message"][:8]) == ("tools", "tools[1]")


@pytest.mark.parametrize("name", ["auto", "none", "required"])
def test_a_mode_is_no_name(server: Running, name: str) -> None:
    tool = {"type": "function", "function": function(name)}
    error = server.refusal(CHAT, 400, **asked(tools=[tool], tool_choice=tool))
    assert error["param"] == "tool_choice"


def test_a_shape_and_tools_are_told_apart(server: Running) -> None:
    format = {"type": "json_object", "schema": {"type": "x"}}
    error = server.refusal(CHAT, 400, **asked(tools=TOOLS, response_format=format))
    assert error["param"] == "response_format"


def test_without_llguidance(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    server.answer(CHAT, **asked(tools=TOOLS))
    error = server.refusal(CHAT, 501, **asked(tools=TOOLS, tool_choice="required"))
    assert error["param"] == "tools"
    assert "pip install" in error["message"]
