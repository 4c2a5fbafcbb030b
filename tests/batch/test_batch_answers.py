"""Answers to a batch's requests are the server's, and are what OpenAI's own types read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from check_batch import URLS, asking, said
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from support.batches import TINY, mixed, request
from support.serving import Running, serving
from support.strict import check

from linnet import LLM
from linnet.engine.async_llm import AsyncLLM
from linnet.engine.batch.lines import parsed
from linnet.engine.batch.worker import Worker
from linnet.engine.server.settings import Settings

KINDS = {
    "chat": ChatCompletion, "completion": Completion,
    "embedding": CreateEmbeddingResponse, "response": Response,
}  # fmt: skip
# As in OpenAI's guide, https://platform.openai.com/docs/guides/batch, with its white space.
OF_THE_GUIDE = (
    b'{"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": '
    b'{"model": "gpt-3.5-turbo-0125", "messages": [{"role": "system", "content": "You are a '
    b'helpful assistant."},{"role": "user", "content": "Hello world!"}],"max_tokens": 10}}'
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def worker(path: Path) -> Iterator[Worker]:
    made = Worker(lambda: AsyncLLM(LLM(path)), Settings())
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[Running]:
    with serving(lambda: LLM(path)) as running:
        yield running


def answers(worker: Worker, *lines: bytes) -> list[dict[str, Any]]:
    """To all of them at once."""

    async def ask() -> list[bytes]:
        return await asyncio.gather(*(worker.answer(parsed(line)) for line in lines))

    found = asyncio.run(ask())
    assert all(line.endswith(b"}\n") and line.count(b"\n") == 1 for line in found)
    return [msgspec.json.decode(line) for line in found]


def asked(worker: Worker, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    return answers(worker, *map(msgspec.json.encode, requests))


def test_answers_are_the_servers(worker: Worker, server: Running) -> None:
    requests = mixed(12)
    for line, answer in zip(requests, asked(worker, *requests), strict=True):
        body = server.answer(line["url"], **line["body"])
        assert said(answer) == said({"response": {"status_code": 200, "body": body}})
        assert answer["response"]["body"].keys() == body.keys()
        assert answer["custom_id"] == line["custom_id"]


@pytest.mark.parametrize("kind", URLS)
def test_they_are_of_openais_types(worker: Worker, kind: str) -> None:
    (answer,) = asked(worker, asking("a", kind, "to the", 12))
    assert list(answer) == ["id", "custom_id", "response", "error"]
    assert answer["id"].startswith("batch_req_")
    assert (answer["custom_id"], answer["error"]) == ("a", None)
    assert list(answer["response"]) == ["status_code", "request_id", "body"]
    assert answer["response"]["request_id"]
    check(KINDS[kind], answer["response"]["body"])


def test_a_line_of_openais_guide(worker: Worker) -> None:
    (answer,) = answers(worker, OF_THE_GUIDE)
    completion = ChatCompletion.model_validate(answer["response"]["body"])
    assert (answer["custom_id"], completion.choices[0].finish_reason) == ("request-1", "length")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 10


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"), ({"messages": "x"}, "messages"), ({}, "messages"),
        ({"messages": [{"role": "user", "content": "a " * 600}]}, "messages"),
        ({**asking("", "chat", "x", 12)["body"], "top_p": 2}, "top_p"),
        ({**asking("", "chat", "x", 12)["body"], "stream": 1}, "stream"),
    ],
    ids=str,
)  # fmt: skip
def test_errors_are_the_servers(
    worker: Worker, server: Running, body: dict[str, Any], param: str
) -> None:
    (answer,) = asked(worker, request("a", "chat", **body))
    assert answer["error"] is None
    assert answer["response"]["status_code"] == 400
    assert answer["response"]["body"]["error"]["param"] == param
    refusal = server.refusal(URLS["chat"], 400, **body)
    assert answer["response"]["body"] == {"error": refusal}


def test_there_is_no_stream(worker: Worker) -> None:
    one = asking("a", "chat", "x", 12)
    (answer,) = asked(worker, {**one, "body": {**one["body"], "stream": True}})
    assert answer["response"]["status_code"] == 400
    assert answer["response"]["body"]["error"]["param"] == "stream"
    (answer,) = asked(worker, {**one, "body": {**one["body"], "stream": False}})
    assert answer["response"]["status_code"] == 200


@pytest.mark.parametrize("body", [b"null", b"[]", b"3", b'"x"', b'{"prompt": "\xff"}'])
def test_a_body_that_is_no_object_is_an_answer(worker: Worker, body: bytes) -> None:
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": %s}' % body
    (answer,) = answers(worker, line)
    assert answer["response"]["status_code"] == 400


def test_what_is_cancelled_ends(worker: Worker) -> None:
    long = {"prompt": "the", "max_tokens": 400, "ignore_eos": True}

    async def ask() -> None:
        line = parsed(msgspec.json.encode(request("a", **long)))
        tasks = [asyncio.ensure_future(worker.answer(line)) for _ in range(20)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert worker._service.n_open == 0

    asyncio.run(ask())
