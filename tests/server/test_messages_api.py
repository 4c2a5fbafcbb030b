"""`/v1/messages`, asked by Anthropic's own client and with bodies by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import ErrorResponse, Message, MessageTokensCount, RawMessageStreamEvent
from support.scripted import Say
from support.serving import Running, serving
from support.strict import check

from linnet.engine.sampling.chain import Sampler
from linnet.engine.server.errors import APIError

PATH = "/v1/messages"
TOOL = {"name": "f", "description": "adds", "input_schema": {"type": "object", "properties": {}}}
ANSWER = (
    "<think>\nwhy\n</think>\n\nyes.\n"
    '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n'
    '<tool_call>{"name": "g", "arguments": {"b": 2}}</tool_call>'
)
CONTENT = [
    {"type": "thinking", "thinking": "why", "signature": ""},
    {"type": "text", "text": "yes."},
    {"type": "tool_use", "name": "f", "input": {"a": 1}},
    {"type": "tool_use", "name": "g", "input": {"b": 2}},
]
HISTORY = [
    {"role": "user", "content": [{"type": "text", "text": "a", "citations": None},
                                 {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "why", "signature": "s"},
        {"type": "redacted_thinking", "data": "?"},
        {"type": "text", "text": "so"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "t2", "name": "f", "input": {}},
    ]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "t1", "content": "3", "is_error": None},
        {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "4"}]},
        {"type": "text", "text": "go on"},
    ]},
]  # fmt: skip
AS_CHAT = [
    {"role": "user", "content": "ab"},
    {"role": "assistant", "content": "so", "reasoning_content": "why", "tool_calls": [
        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "t2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    ]},
    {"role": "tool", "tool_call_id": "t1", "content": "3"},
    {"role": "tool", "tool_call_id": "t2", "content": "4"},
    {"role": "user", "content": "go on"},
]  # fmt: skip


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def asked(content: Any = "def f(x):", **body: Any) -> dict[str, Any]:
    """A body with one message, that is answered by few tokens."""
    messages = [{"role": "user", "content": content}]
    return {"model": "m", "messages": messages, "max_tokens": 8, **body}


def without_ids(content: Any) -> list[dict[str, Any]]:
    return [{key: item for key, item in block.items() if key != "id"} for block in content]


# ---- answers -------------------------------------------------------------------------------------


def test_an_answer_is_blocks(server: Running, say: Say) -> None:
    n_tokens = len(say(server.llm.tokenizer, ANSWER))
    body = server.answer(PATH, **asked(max_tokens=300))
    check(Message, body)
    assert without_ids(body["content"]) == CONTENT
    ids = [block["id"] for block in body["content"][2:]]
    assert len({*ids}) == 2
    assert all(each.startswith("toolu_") for each in ids)
    assert (body["stop_reason"], body["stop_sequence"]) == ("tool_use", None)
    assert body["usage"]["output_tokens"] == n_tokens
    assert 0 < body["usage"]["output_tokens_details"]["thinking_tokens"] < n_tokens


def test_a_stream_has_events_for_each_block(server: Running, say: Say) -> None:
    say(server.llm.tokenizer, ANSWER)
    frames = server.streamed(PATH, **asked(max_tokens=300))
    assert all(event == data["type"] for event, data in frames)
    events = [data for event, data in frames if event != "ping"]
    check(RawMessageStreamEvent, *events)
    kinds = [data["type"].removeprefix("content_block_") for data in events]
    of_blocks = [(kinds[i], data["index"]) for i, data in enumerate(events) if "index" in data]
    in_order = [(kind, i) for i in range(4) for kind in ("start", "delta", "stop")]
    assert [pair for i, pair in enumerate(of_blocks) if pair != of_blocks[i - 1]] == in_order
    assert [kinds[0], *kinds[-2:]] == ["message_start", "message_delta", "message_stop"]
    started, ended = events[0]["message"]["usage"], events[-2]["usage"]
    assert started["output_tokens"] == 0 < ended["output_tokens"]
    same = "input_tokens", "cache_read_input_tokens"
    assert [started[name] for name in same] == [ended[name] for name in same]
    assert frames[1].event == "ping"


def test_the_client_reads_a_stream_as_the_whole(
    server: Running, client: anthropic.Anthropic, say: Say
) -> None:
    say(server.llm.tokenizer, ANSWER)
    whole = client.messages.create(**asked(max_tokens=300))
    with client.messages.stream(**asked(max_tokens=300)) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "yes."
    assert final.stop_reason == whole.stop_reason == "tool_use"
    for message in (whole, final):
        assert without_ids(block.to_dict() for block in message.content) == CONTENT
        assert [block.type for block in message.content][2:] == ["tool_use"] * 2


@pytest.mark.parametrize(
    ("body", "reason", "text"),
    [
        ({"max_tokens": 2}, "max_tokens", "on"),
        ({"stop_sequences": ["o t", "zz"]}, "stop_sequence", "one tw"),
        ({}, "end_turn", "one two three"),
    ],
)
def test_why_an_answer_ends(
    server: Running, say: Say, body: dict[str, Any], reason: str, text: str
) -> None:
    ids = say(server.llm.tokenizer, "one two three")
    if reason == "max_tokens":
        text = server.llm.tokenizer.decode(ids[:2])
    given = asked(**{"max_tokens": 40, **body})
    whole = server.answer(PATH, **given)
    assert whole["content"] == [{"type": "text", "text": text}]
    found = body["stop_sequences"][0] if "stop_sequences" in body else None
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, found)
    ending = server.streamed(PATH, **given)[-2].data
    assert ending["delta"] == {"stop_reason": reason, "stop_sequence": found}


def test_parallel_calls_can_be_had_one_at_a_time(server: Running, say: Say) -> None:
    say(server.llm.tokenizer, ANSWER)
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    body = server.answer(PATH, **asked(max_tokens=300, tool_choice=choice))
    assert without_ids(body["content"]) == CONTENT[:3]
    assert body["stop_reason"] == "tool_use"


def test_an_answer_may_fill_the_context(server: Running) -> None:
    ids = server.llm.tokenizer.encode("x " * 1000)
    text = server.llm.tokenizer.decode(ids[: server.llm.n_ctx - 20])
    body = server.answer(PATH, **asked(text, max_tokens=100_000, ignore_eos=True))
    assert body["stop_reason"] == "model_context_window_exceeded"


# ---- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "as_chat"),
    [
        ({"messages": HISTORY, "tools": [TOOL]}, {"messages": AS_CHAT, "tools": [
            {"type": "function", "function": {
                "name": "f", "description": "adds", "parameters": TOOL["input_schema"]}}]}),
        ({"system": "be brief", "messages": HISTORY[:1]},
         {"messages": [{"role": "system", "content": "be brief"}, AS_CHAT[0]]}),
        ({"system": [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"},
                     {"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
          "messages": HISTORY[:1]},
         {"messages": [{"role": "system", "content": "be brief"}, AS_CHAT[0]]}),
        ({"messages": HISTORY[:1], "tools": [TOOL], "tool_choice": {"type": "none"}},
         {"messages": AS_CHAT[:1]}),
        ({"messages": HISTORY[:1], "thinking": {"type": "disabled"}},
         {"messages": AS_CHAT[:1], "reasoning_effort": "none"}),
        ({"messages": HISTORY[:1], "thinking": {"type": "enabled", "budget_tokens": 1024}},
         {"messages": AS_CHAT[:1]}),
        ({"messages": [*HISTORY[:1], {"role": "assistant", "content": [
            {"type": "text", "text": "it is"}]}]},
         {"messages": [AS_CHAT[0], {"role": "assistant", "content": "it is"}],
          "continue_final_message": True}),
    ],
)  # fmt: skip
def test_a_prompt_is_that_of_chat_completions(
    server: Running, prompts: list[list[int]], body: dict[str, Any], as_chat: dict[str, Any]
) -> None:
    server.answer("/v1/chat/completions", max_tokens=1, **as_chat)
    usage = server.answer(PATH, max_tokens=1, **body)["usage"]
    assert prompts[0] == prompts[1]
    counted = server.answer(f"{PATH}/count_tokens", **body)
    check(MessageTokensCount, counted)
    assert counted == {"input_tokens": len(prompts[0])}
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == len(prompts[0])


def test_the_client_counts_and_sends_tools(
    server: Running, client: anthropic.Anthropic, say: Say
) -> None:
    say(server.llm.tokenizer, ANSWER)
    question: Any = {"role": "user", "content": "add"}
    tools: Any = [TOOL]
    first = client.messages.create(model="m", max_tokens=200, messages=[question], tools=tools)
    results: Any = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "3"}
        for block in first.content
        if block.type == "tool_use"
    ]
    said = {"role": "assistant", "content": first.content}
    messages: Any = [question, said, {"role": "user", "content": results}]
    count = client.messages.count_tokens(model="m", messages=messages, tools=tools)
    second = client.messages.create(model="m", max_tokens=2, messages=messages, tools=tools)
    usage = second.usage
    assert count.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert second.stop_reason == "max_tokens"


# ---- errors --------------------------------------------------------------------------------------

IMAGE = {"type": "image", "source": {"type": "url", "url": "u"}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens: Expected `int` >= 1"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        (asked([IMAGE]), "messages[0].content[0] has the type 'image'"),
        (asked([{"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}]),
         "messages[0].content[0].content[0] has the type 'image'"),
        (asked([{"type": "audio"}]), "messages[0].content[0].type: Invalid value 'audio'"),
        ({"messages": HISTORY[:2]}, "must have text alone"),
        ({"tool_choice": {"type": "any"}}, "tool_choice asks for a call"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "has the name 'g'"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name is missing"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
         "tools[0] is 'web_search_20250305'"),
        ({"tools": [{"name": "f"}]}, "tools[0] has no input_schema"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "x"}}}},
         "json_schema cannot be enforced"),
        ({"temperature": -1}, "temperature is -1"),
        ({"stop_sequences": "x"}, "stop_sequences: Expected `array"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences: Expected `array` of length <= 16"),
        (asked([{"type": "text"}]), "messages[0].content[0].text is missing"),
    ],
)  # fmt: skip
def test_what_is_refused(server: Running, body: dict[str, Any], said: str) -> None:
    response = server.post(PATH, **{**asked(), **body})
    assert response.status_code == 400
    check(ErrorResponse, {"request_id": None, **response.json()})
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]


def test_a_prompt_that_is_too_long_is_called_so(server: Running) -> None:
    error = server.refusal(PATH, 400, **asked("x " * 1000))
    words = error["message"].split()
    assert words[:4] == ["prompt", "is", "too", "long:"]
    assert words[5:7] == ["tokens", ">"]
    assert int(words[4]) > int(words[7]) == server.llm.n_ctx


def test_errors_of_the_client(server: Running, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="top_p is 7"):
        client.messages.create(**asked(extra_body={"top_p": 7}))
    response = server.get(PATH)
    assert response.status_code == 405
    assert response.json()["type"] == "error"
    with serving(api_keys=("right",)) as other:
        wrong = anthropic.Anthropic(base_url=other.url, api_key="wrong", max_retries=0)
        with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
            wrong.messages.create(**asked())
        right = anthropic.Anthropic(base_url=other.url, api_key="right", max_retries=0)
        assert right.messages.create(**asked()).role == "assistant"


def test_an_error_in_a_stream_is_an_event(
    server: Running, client: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(*_: object) -> int:
        raise APIError(503, "no more")

    monkeypatch.setattr(Sampler, "sample", sample)
    event, data = server.streamed(PATH, **asked())[-1]
    assert event == "error"
    told = {"type": "overloaded_error", "message": "no more"}
    assert data == {"type": "error", "error": told}
    with pytest.raises(anthropic.APIStatusError, match="no more"):
        list(client.messages.create(**asked(), stream=True))
