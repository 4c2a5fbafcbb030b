"""`/v1/responses`, asked by OpenAI's own client and with bodies by hand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from support.scripted import Say
from support.serving import Running, serving
from support.strict import check

from linnet.engine.sampling.chain import Sampler
from linnet.engine.server.errors import APIError

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "f", "description": "adds", "strict": True,
        "parameters": {"type": "object", "properties": {}}}  # fmt: skip
CHAT_TOOL = {"type": "function", "function": {
    "name": "f", "description": "adds", "parameters": TOOL["parameters"]}}  # fmt: skip
ANSWER = (
    "<think>\nwhy\n</think>\n\nyes.\n"
    '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n'
    '<tool_call>{"name": "g", "arguments": {"b": 2}}</tool_call>'
)
OUTPUT = [
    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "why"}]},
    {"type": "message", "role": "assistant", "content": [
        {"type": "output_text", "text": "yes.", "annotations": [], "logprobs": []}]},
    {"type": "function_call", "name": "f", "arguments": '{"a": 1}'},
    {"type": "function_call", "name": "g", "arguments": '{"b": 2}'},
]  # fmt: skip
EVENTS = {
    "reasoning": ("output_item.added", "content_part.added", "reasoning_text.delta",
                  "reasoning_text.done", "content_part.done", "output_item.done"),
    "message": ("output_item.added", "content_part.added", "output_text.delta",
                "output_text.done", "content_part.done", "output_item.done"),
    "function_call": ("output_item.added", "function_call_arguments.delta",
                      "function_call_arguments.done", "output_item.done"),
}  # fmt: skip
HISTORY = [
    {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None,
     "content": [{"type": "reasoning_text", "text": "why"}]},
    {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [
        {"type": "output_text", "text": "so", "annotations": []},
        {"type": "refusal", "refusal": "?"}]},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
    {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "3"},
    {"type": "function_call_output", "call_id": "c2", "output": [
        {"type": "input_text", "text": "4"}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    {"role": "assistant", "content": "seven"},
    {"role": "user", "content": "go on"},
]  # fmt: skip
AS_CHAT = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "so?", "reasoning_content": "why", "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    ]},
    {"role": "tool", "tool_call_id": "c1", "content": "3"},
    {"role": "tool", "tool_call_id": "c2", "content": "4"},
    {"role": "assistant", "content": "seven", "reasoning_content": "hm"},
    {"role": "user", "content": "go on"},
]  # fmt: skip


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def without_ids(output: Any) -> list[dict[str, Any]]:
    left_out = "id", "call_id", "status"
    return [{key: value for key, value in item.items() if key not in left_out} for item in output]


# ---- answers -------------------------------------------------------------------------------------


def test_an_answer_is_items(server: Running, say: Say) -> None:
    n_tokens = len(say(server.llm.tokenizer, ANSWER))
    body = server.answer(PATH, input="add", tools=[TOOL], max_output_tokens=300, temperature=0.5)
    check(Response, body)
    assert without_ids(body["output"]) == OUTPUT
    assert {item["status"] for item in body["output"]} == {"completed"}
    assert len({item["id"] for item in body["output"]}) == len(OUTPUT)
    assert (body["status"], body["error"], body["incomplete_details"]) == ("completed", None, None)
    assert (body["tools"], body["temperature"], body["store"]) == ([TOOL], 0.5, False)
    usage = body["usage"]
    assert usage["output_tokens"] == n_tokens
    assert usage["total_tokens"] == usage["input_tokens"] + n_tokens
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < n_tokens


def test_a_stream_has_events_for_each_item(server: Running, say: Say) -> None:
    say(server.llm.tokenizer, ANSWER)
    frames = server.streamed(PATH, input="add", max_output_tokens=300)
    assert all(event == data["type"] for event, data in frames)
    events = [data for _, data in frames]
    check(ResponseStreamEvent, *events)
    assert [data["sequence_number"] for data in events] == [*range(len(events))]
    kinds = [data["type"].removeprefix("response.") for data in events]
    assert (kinds[:2], kinds[-1]) == (["created", "in_progress"], "completed")
    output = events[-1]["response"]["output"]
    assert without_ids(output) == OUTPUT
    for i, item in enumerate(output):
        told = [data for data in events if data.get("output_index") == i]
        names = [data["type"].removeprefix("response.") for data in told]
        assert tuple(dict.fromkeys(names)) == EVENTS[item["type"]]
        assert {data.get("item_id", item["id"]) for data in told} == {item["id"]}
        assert told[0]["item"]["id"] == item["id"]
        assert told[-1]["item"] == item


def test_the_client_reads_a_stream_as_the_whole(
    server: Running, client: openai.OpenAI, say: Say
) -> None:
    say(server.llm.tokenizer, ANSWER)
    whole = client.responses.create(model="m", input="add")
    with client.responses.stream(model="m", input="add") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == whole.output_text == final.output_text == "yes."
    for response in (whole, final):
        assert [item.type for item in response.output] == [item["type"] for item in OUTPUT]
        calls = [item for item in response.output if item.type == "function_call"]
        given = [(call.name, call.arguments) for call in calls]
        assert given == [("f", '{"a": 1}'), ("g", '{"b": 2}')]


def test_parallel_calls_can_be_had_one_at_a_time(server: Running, say: Say) -> None:
    say(server.llm.tokenizer, ANSWER)
    body = server.answer(PATH, input="add", parallel_tool_calls=False)
    assert without_ids(body["output"]) == OUTPUT[:3]
    assert (body["status"], body["parallel_tool_calls"]) == ("completed", False)


def test_a_limit_makes_an_answer_incomplete(server: Running, say: Say) -> None:
    say(server.llm.tokenizer, "one two three")
    body = server.answer(PATH, input="count", max_output_tokens=2)
    check(Response, body)
    assert body["status"] == body["output"][-1]["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    *_, last_item, last = server.streamed(PATH, input="count", max_output_tokens=2)
    assert last_item.data["item"]["status"] == "incomplete"
    assert last.event == "response.incomplete"
    assert last.data["response"]["output"][0]["content"] == body["output"][0]["content"]


# ---- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "as_chat"),
    [
        ({"input": HISTORY, "tools": [TOOL]}, {"messages": AS_CHAT, "tools": [CHAT_TOOL]}),
        ({"input": [*HISTORY[3:5], *HISTORY[8:]]},
         {"messages": [{"role": "assistant", "tool_calls": AS_CHAT[1]["tool_calls"]},
                       {"role": "assistant", "content": "seven"}, AS_CHAT[-1]]}),
        ({"input": "a"}, {"messages": AS_CHAT[:1]}),
        ({"input": "a", "store": True, "metadata": {"k": "v"}, "include": ["x"]},
         {"messages": AS_CHAT[:1]}),
        ({"input": [{"role": "developer", "content": "c"}, *HISTORY[:1]], "instructions": "b"},
         {"messages": [{"role": "system", "content": "b"}, {"role": "developer", "content": "c"},
                       *AS_CHAT[:1]]}),
        ({"input": "a", "tools": [TOOL], "tool_choice": "none"}, {"messages": AS_CHAT[:1]}),
        ({"input": "a", "tools": [{"type": "web_search"}]}, {"messages": AS_CHAT[:1]}),
        ({"input": "a", "reasoning": {"effort": "none"}},
         {"messages": AS_CHAT[:1], "reasoning_effort": "none"}),
    ],
)  # fmt: skip
def test_a_prompt_is_that_of_chat_completions(
    server: Running, prompts: list[list[int]], body: dict[str, Any], as_chat: dict[str, Any]
) -> None:
    server.answer("/v1/chat/completions", max_tokens=1, **as_chat)
    server.answer(PATH, max_output_tokens=1, **body)
    assert prompts[0] == prompts[1]
    counted = server.answer(f"{PATH}/input_tokens", **body)
    check(InputTokenCountResponse, counted)
    assert counted["input_tokens"] == len(prompts[0])


def test_what_the_client_gives_back_goes_on(
    server: Running, client: openai.OpenAI, prompts: list[list[int]], say: Say
) -> None:
    say(server.llm.tokenizer, ANSWER)
    question: Any = {"role": "user", "content": "add"}
    tools: Any = [TOOL]
    first = client.responses.create(model="m", input=[question], tools=tools)
    calls = [item for item in first.output if item.type == "function_call"]
    results: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "3"} for call in calls
    ]
    said: Any = first.output
    asked: Any = [question, *said, *results]
    count = client.responses.input_tokens.count(model="m", input=asked, tools=tools)
    client.responses.create(model="m", input=asked, tools=tools, max_output_tokens=16)
    assert count.input_tokens == len(prompts[1])
    text = server.llm.tokenizer.decode(prompts[1])
    assert "assistant(why)[f a=1][g b=2]: yes.tool: 3tool: 3assistant: " in text


def test_tools_that_others_run_are_skipped_and_the_log_says_so(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    tools = [{"type": "web_search"}, {"type": "not a name"}, TOOL]
    with caplog.at_level(logging.INFO, "linnet.server"):
        body = server.answer(PATH, input="a", max_output_tokens=1, tools=tools)
    assert body["tools"] == [TOOL]
    told = [record.__dict__["fields"] for record in caplog.records if record.msg == "skipped"]
    assert told == [{"tools": "?,web_search"}]


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"input": None}, "input", "input is missing"),
        ({"input": []}, "input", "length >= 1"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input", "input[0].role"),
        ({"input": [{"role": "user"}]}, "input", "input[0].content is missing"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input", "input[0].type"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input",
         "input[0].call_id is missing"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
         "input", "input[0].content[0] has the type 'input_image'"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "no response is kept"),
        ({"conversation": "conv_1"}, "conversation", "no response is kept"),
        ({"prompt": {"id": "p"}}, "prompt", "no response is kept"),
        ({"background": True}, "background", "no response is kept"),
        ({"truncation": "auto"}, "truncation", "never cut"),
        ({"text": {"format": {"type": "x"}}}, "text", "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "x"}}}},
         "text.format", "json_schema cannot be enforced"),
        ({"top_logprobs": 2}, "top_logprobs", "not supported"),
        ({"include": ["message.output_text.logprobs"]}, "include", "message.output_text.logprobs"),
        ({"tool_choice": "required"}, "tool_choice", "asks for a call"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "has the name 'f'"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice", "tool_choice.type"),
        ({"tools": [{"type": "function"}]}, "tools", "has no name"),
        ({"max_output_tokens": 0}, "max_output_tokens", ">= 1"),
        ({"max_output_tokens": 10**10}, "max_output_tokens", "<= 2147483647"),
        ({"temperature": -1}, "temperature", "temperature is -1"),
        ({"input": "x " * 1000}, "input", "exceeds the available context size"),
    ],
)  # fmt: skip
def test_what_is_refused(server: Running, body: dict[str, Any], param: str, said: str) -> None:
    error = server.refusal(PATH, 400, **{"input": "a", "max_output_tokens": 1, **body})
    assert error["param"] == param
    assert said in error["message"]


def test_other_models_can_be_refused() -> None:
    with serving(strict_model=True) as server:
        name = server.llm.path.name
        assert server.answer(PATH, input="a", max_output_tokens=1, model=name)["model"] == name
        assert server.refusal(PATH, 404, input="a", model="other")["param"] == "model"
        body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "model": "other"}
        assert server.refusal("/v1/messages", 404, **body)["type"] == "not_found_error"


def test_an_error_in_a_stream_is_a_response_that_failed(
    server: Running, client: openai.OpenAI, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(server.llm.tokenizer, "one two three")
    sample = Sampler.sample

    def failing(sampler: Sampler, logits: Any) -> int:
        if len(vars(sampler).get("script", "12345")) < 3:
            raise APIError(503, "no more")
        return sample(sampler, logits)

    monkeypatch.setattr(Sampler, "sample", failing)
    events = [data for _, data in server.streamed(PATH, input="a")]
    check(ResponseStreamEvent, *events)
    assert events[-1]["type"] == "response.failed"
    response = events[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "no more"}
    assert response["output"][0]["status"] == "incomplete"
    last = [*client.responses.create(model="m", input="a", stream=True)][-1]
    assert last.type == "response.failed"
    with pytest.raises(openai.InternalServerError, match="no more"):
        client.responses.create(model="m", input="a")
