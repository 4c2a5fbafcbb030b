"""`/v1/chat/completions`: bodies, streams, and what is refused."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from support.scripted import Say
from support.serving import Running, asked

from linnet import SamplingParams
from linnet.engine.server.wire.chat import ChatCompletion

PATH = "/v1/chat/completions"
CALL = '<tool_call>{"name": "f", "arguments": {"a": "é"}}</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "f", "description": None, "parameters": {}}}]
ANSWER = f"<think>why</think>yes{CALL}{CALL}"


def text_of(chunks: list[Any], field: str = "content", index: int = 0) -> str:
    """What the deltas of an answer make together."""
    deltas = [
        choice["delta"] for chunk in chunks for choice in chunk["choices"]
        if choice["index"] == index
    ]  # fmt: skip
    return "".join(delta.get(field) or "" for delta in deltas)


# ---- a body, a stream ----------------------------------------------------------------------------


def test_an_answer_is_the_engines_own(server: Running) -> None:
    body = server.chat(max_tokens=12)
    message = [{"role": "user", "content": "def f(x):"}]
    output = server.llm.chat(
        message, SamplingParams(max_tokens=12, temperature=0),
        chat_template_kwargs={"enable_thinking": True},
    )  # fmt: skip
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": output.content}
    assert (choice["index"], choice["logprobs"]) == (0, None)
    assert choice["finish_reason"] == output.finish_reason == "length"
    assert (body["object"], body["model"]) == ("chat.completion", "demo-Q4_K_M.gguf")
    assert body["system_fingerprint"].startswith("linnet-")
    usage = body["usage"]
    assert usage["prompt_tokens"] == output.stats.n_prompt
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    assert body["timings"]["predicted_n"] == 12


def test_a_stream_has_what_the_body_has(server: Running) -> None:
    whole = server.chat()
    first, *deltas, last = server.chat_stream()
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert text_of(deltas) == whole["choices"][0]["message"]["content"]
    assert all(chunk["choices"][0]["delta"]["content"] for chunk in deltas)  # never an empty one
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "length"
    for name in ("id", "created", "model", "system_fingerprint"):
        assert len({chunk[name] for chunk in (first, *deltas, last)}) == 1
    assert {chunk["object"] for chunk in (first, *deltas, last)} == {"chat.completion.chunk"}


def test_a_stream_comes_while_it_is_made(server: Running) -> None:
    with server.stream(PATH, **asked(max_tokens=900, ignore_eos=True)) as chunks:
        next(chunks)
        assert server.n_open == 1  # or all of it would have been waited for
        assert next(chunks).data["choices"][0]["delta"]["content"]
    server.rests()


def test_what_is_sent_leaves_at_once(server: Running) -> None:
    """Else the second packet of an answer waits 40 ms for the acknowledgement of the first."""
    server.get("/health")
    connections = list(server.server.server_state.connections)
    assert connections
    for connection in connections:
        taken = connection.transport.get_extra_info("socket")
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_usage_comes_in_a_stream_where_it_is_asked_for(server: Running) -> None:
    assert all(chunk["choices"] and "usage" not in chunk for chunk in server.chat_stream())
    *chunks, last = server.chat_stream(stream_options={"include_usage": True})
    assert all(chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 8
    assert last["timings"]["predicted_n"] == 8


def test_timings_and_progress_come_where_they_are_asked_for(server: Running) -> None:
    chunks = server.chat_stream("a text of its own", timings_per_token=True, return_progress=True)
    progress = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert progress[-1]["processed"] == progress[-1]["total"] > progress[0]["processed"]
    assert [c["timings"]["predicted_n"] for c in chunks if "timings" in c][-1] == 8


def test_null_is_absent_and_unknown_fields_are_ignored(server: Running) -> None:
    plain = server.chat()
    nulls = dict.fromkeys(("top_p", "stop", "tools", "n", "logit_bias", "response_format", "audio"))
    odd = server.chat(**nulls, user="me", metadata={"a": "b"}, no_such_field=[1])
    assert odd["choices"] == plain["choices"]


# ---- several answers, seeds, stops ---------------------------------------------------------------


def test_answers_have_the_next_seeds(server: Running) -> None:
    hot: dict[str, Any] = {"temperature": 1.0, "max_tokens": 6}
    several = server.chat(n=3, seed=5, **hot)
    alone = [server.chat(seed=5 + i, **hot)["choices"][0]["message"] for i in range(3)]
    assert [choice["message"] for choice in several["choices"]] == alone
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2]
    assert several["usage"]["completion_tokens"] == 18
    chunks = server.chat_stream(n=3, seed=5, **hot)
    assert [text_of(chunks, index=i) for i in range(3)] == [each["content"] for each in alone]
    ends = [c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"]]
    assert sorted(ends) == [0, 1, 2]


def test_a_seed_gives_the_same_and_none_another(server: Running) -> None:
    hot: dict[str, Any] = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "max_tokens": 12}
    same = [server.chat(seed=1, **hot)["choices"] for _ in range(2)]
    assert same[0] == same[1]
    other = [server.chat(seed=seed, **hot)["choices"] for seed in (None, -1)]
    assert other[0] != other[1]


@pytest.mark.parametrize("form", [lambda stop: stop, lambda stop: ["\0", stop]])
def test_a_stop_string_ends_an_answer(server: Running, form: Any) -> None:
    text = server.chat()["choices"][0]["message"]["content"]
    stop = text[-2:]
    body = server.chat(stop=form(stop))
    assert body["choices"][0]["message"]["content"] == text[: text.index(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert text_of(server.chat_stream(stop=form(stop))) == text[: text.index(stop)]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_a_limit_has_several_names(server: Running, name: str) -> None:
    body = {"messages": asked()["messages"], name: 3, "ignore_eos": True}
    assert server.answer(PATH, **body)["usage"]["completion_tokens"] == 3


def test_an_answer_goes_on_from_its_beginning(server: Running) -> None:
    text = server.chat(max_tokens=8)["choices"][0]["message"]["content"]
    begun = server.chat(max_tokens=4)["choices"][0]["message"]["content"]
    messages = [*asked()["messages"], {"role": "assistant", "content": begun}]
    body = server.chat(messages=messages, max_tokens=4, continue_final_message=True)
    rest = body["choices"][0]["message"]["content"]
    assert (begun + rest)[: len(text) - 2] == text[:-2]  # but for a character cut in two
    error = server.refusal(PATH, 400, **asked(continue_final_message=True))
    assert error["param"] == "messages"


# ---- reasoning, tool calls -----------------------------------------------------------------------


def test_an_answer_is_told_apart(server: Running, say: Say) -> None:
    n = len(say(server.llm.tokenizer, ANSWER))
    body = server.chat(tools=TOOLS, max_tokens=200)
    message = body["choices"][0]["message"]
    assert message["content"] == "yes"
    assert message["reasoning_content"] == message["reasoning"] == "why"
    calls = message["tool_calls"]
    assert [call["function"] for call in calls] == [{"name": "f", "arguments": '{"a": "é"}'}] * 2
    assert all(call["type"] == "function" for call in calls)
    assert calls[0]["id"] != calls[1]["id"]
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert body["usage"]["completion_tokens"] == n
    assert 0 < body["usage"]["completion_tokens_details"]["reasoning_tokens"] < n


def test_a_stream_is_told_apart(server: Running, say: Say) -> None:
    say(server.llm.tokenizer, ANSWER)
    chunks = server.chat_stream(tools=TOOLS, max_tokens=200)
    assert text_of(chunks) == "yes"
    assert text_of(chunks, "reasoning_content") == text_of(chunks, "reasoning") == "why"
    deltas = [c["choices"][0]["delta"].get("tool_calls") for c in chunks]
    calls = [call for delta in deltas if delta for call in delta]
    assert [call["index"] for call in calls] == [0, 0, 1, 1]
    for head, rest in (calls[:2], calls[2:]):
        assert head["function"] == {"name": "f", "arguments": ""}
        assert head["id"]
        assert rest == {"index": head["index"], "function": {"arguments": '{"a": "é"}'}}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_calls_alone_leave_no_content(server: Running, say: Say) -> None:
    say(server.llm.tokenizer, CALL)
    message = server.chat(tools=TOOLS, max_tokens=200)["choices"][0]["message"]
    assert message["content"] is None
    assert len(message["tool_calls"]) == 1


def test_without_parallel_calls_an_answer_ends_with_one(server: Running, say: Say) -> None:
    say(server.llm.tokenizer, ANSWER)
    how: dict[str, Any] = {"tools": TOOLS, "max_tokens": 200, "parallel_tool_calls": False}
    choice = server.chat(**how)["choices"][0]
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"
    chunks = server.chat_stream(**how)
    assert sum("tool_calls" in c["choices"][0]["delta"] for c in chunks) == 2
    server.rests()


def test_a_call_that_was_cut_off_is_none(server: Running, say: Say) -> None:
    ids = say(server.llm.tokenizer, CALL)
    choice = server.chat(tools=TOOLS, max_tokens=len(ids) - 2)["choices"][0]
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("format", "content"),
    [("none", "<think>why</think>yes"), ("auto", "yes"), ("deepseek", "yes")],
)
def test_reasoning_goes_where_the_format_says(
    server: Running, say: Say, format: str, content: str
) -> None:
    say(server.llm.tokenizer, ANSWER)
    body = server.chat(tools=TOOLS, max_tokens=200, reasoning_format=format)
    message = body["choices"][0]["message"]
    assert message["content"] == content
    assert len(message["tool_calls"]) == 2
    assert message.get("reasoning") == (None if format == "none" else "why")


def test_tools_that_may_not_be_called_are_not_told_of(server: Running) -> None:
    plain, without = server.chat(), server.chat(tools=TOOLS, tool_choice="none")
    assert without["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
    assert server.chat(tools=TOOLS)["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    "how", [{"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}]
)
def test_thinking_can_be_off(server: Running, how: dict[str, Any]) -> None:
    n = server.chat()["usage"]["prompt_tokens"]
    assert server.chat(**how)["usage"]["prompt_tokens"] > n  # "<think></think>"


def test_history_comes_as_clients_send_it(server: Running) -> None:
    call = {"id": None, "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    server.chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None, "tool_calls": [call], "name": None},
            {"role": "tool", "tool_call_id": "x", "content": "1"},
        ],
        tools=TOOLS,
    )


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        {"tool_choice": "required"}, {"tool_choice": "f"}, {"tool_choice": {"type": "custom"}},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
            {"type": "function", "function": {"name": "f"}}]}}},
        {"reasoning_budget": -2}, {"thinking_budget_tokens": "all"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"functions": [{"name": "f"}]}, {"function_call": "auto"}, {"audio": {"voice": "x"}},
        {"modalities": ["text", "audio"]}, {"web_search_options": {"a": 1}},
        {"reasoning_format": "x"}, {"temperature": "hot"}, {"temperature": -1}, {"top_p": 2},
        {"n": 0}, {"n": 9}, {"max_tokens": 1.5}, {"messages": []}, {"messages": "hello"},
        {"messages": ["hello"]}, {"stop": [1]}, {"logit_bias": {"1": "x"}}, {"logit_bias": [[1]]},
        {"logit_bias": {"9999999": 1}}, {"stream": "yes"}, {"seed": "x"}, {"tools": [1]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        {"messages": [{"content": "no role"}]}, {"chat_template_kwargs": {"messages": []}},
        {"chat_template_kwargs": {"tools": []}}, {"samplers": ["x"]}, {"typical_p": 2},
    ],
    ids=str,
)  # fmt: skip
def test_a_field_that_is_wrong_is_named(server: Running, field: dict[str, Any]) -> None:
    error = server.refusal(PATH, 400, **asked(**field))
    (name,) = field
    assert error["param"] == name
    assert error["type"] == "invalid_request_error"
    assert error["code"] == 400
    assert error["message"]


@pytest.mark.parametrize(
    "value",
    [True, -1, 1e308, 2**70, "\u00e9", [], [[]], {"a": 1}, [None], [{"role": "user", "content": 1}],
     [{"role": "assistant", "tool_calls": [{"function": {"name": 1, "arguments": 2}}]}]],
    ids=str,
)  # fmt: skip
def test_no_value_of_any_field_is_a_failure_of_ours(server: Running, value: Any) -> None:
    for name in ChatCompletion.__struct_fields__:
        if name != "stream":
            response = server.post(PATH, **asked(max_tokens=1, stop=["e"]) | {name: value})
            assert response.status_code in (200, 400), name


def test_broken_arguments_in_the_history_are_named(server: Running) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{"}}
    messages = [*asked()["messages"], {"role": "assistant", "content": None, "tool_calls": [call]}]
    error = server.refusal(PATH, 400, messages=messages)
    assert "messages[1]" in error["message"]


def test_a_prompt_beyond_the_context_is_refused_with_figures(server: Running) -> None:
    error = server.refusal(PATH, 400, **asked("many words " * 1000))
    assert error["type"] == "exceed_context_size_error"
    assert error["code"] == "context_length_exceeded"
    assert error["n_ctx"] == server.llm.n_ctx < error["n_prompt_tokens"]
    assert "exceeds the available context size" in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"{}", b"[" * 100_000])
def test_a_body_that_is_none_is_refused(server: Running, body: bytes) -> None:
    response = server.client.post(PATH, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_what_is_not_there(server: Running) -> None:
    assert server.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert server.get("/v1/nothing").status_code == 404
    response = server.get(PATH)
    assert (response.status_code, response.json()["error"]["code"]) == (405, 405)
