"""`/v1/chat/completions` and its neighbours, asked by OpenAI's own client with its own types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from support.scripted import Say
from support.serving import Running, asked
from support.strict import check

PATH = "/v1/chat/completions"
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
QUESTION: Any = {"role": "user", "content": "add"}
ANSWER = (
    "<think>\nwhy\n</think>\n\nyes.\n"
    '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n'
    '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
)


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("n", [1, 3])
def test_bodies_and_chunks_are_of_its_types(server: Running, say: Say, n: int) -> None:
    say(server.llm.tokenizer, ANSWER)
    options = {"stream_options": {"include_usage": True}, "tools": [TOOL], "n": n}
    check(ChatCompletion, server.answer(PATH, **asked(max_tokens=300, tools=[TOOL], n=n)))
    chunks = server.chat_stream(max_tokens=300, **options)
    check(ChatCompletionChunk, *chunks)
    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == {*range(n)}
    check(Model, *server.get("/v1/models").json()["data"])


def test_a_stream_adds_up_to_the_whole(server: Running, client: openai.OpenAI, say: Say) -> None:
    say(server.llm.tokenizer, ANSWER)
    whole = client.chat.completions.create(model="m", messages=[QUESTION], tools=[TOOL], n=2)
    with client.chat.completions.stream(
        model="m", messages=[QUESTION], tools=[TOOL], n=2, stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    for answer in (whole, final):
        for choice in answer.choices:
            message = choice.message
            assert (choice.finish_reason, message.content) == ("tool_calls", "yes.")
            calls = [call for call in message.tool_calls or () if call.type == "function"]
            assert [json.loads(call.function.arguments) for call in calls] == [{"a": 1}, {}]
            assert len({call.id for call in calls}) == 2
    assert whole.usage is not None
    assert final.usage is not None
    assert whole.usage.completion_tokens == final.usage.completion_tokens


def test_a_message_goes_back_with_the_results_of_its_calls(
    server: Running, client: openai.OpenAI, prompts: list[list[int]], say: Say
) -> None:
    say(server.llm.tokenizer, ANSWER)
    create = client.chat.completions.create
    message = create(model="m", messages=[QUESTION], tools=[TOOL]).choices[0].message
    said: Any = message
    results: Any = [
        {"role": "tool", "tool_call_id": call.id, "content": "3"}
        for call in message.tool_calls or ()
    ]
    create(model="m", messages=[QUESTION, said, *results], tools=[TOOL], max_tokens=1)
    text = server.llm.tokenizer.decode(prompts[1])
    assert "assistant(why)[f a=1][f]: yes.tool: 3tool: 3assistant: " in text


def test_errors_are_its_exceptions(server: Running, client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as caught:
        create(model="m", messages=[{"role": "user", "content": "x " * 1000}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        create(model="m", messages=[QUESTION], temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert client.models.list().data[0].id == server.llm.path.name
