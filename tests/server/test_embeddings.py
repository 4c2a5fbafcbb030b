"""`/v1/embeddings`: the vectors of LLM.embed, in OpenAI's shape and in llama-server's."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import openai
import pytest
from support.serving import Running

PATH = "/v1/embeddings"
TEXT = "def f(x):"


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        (TEXT, [TEXT]),
        ([TEXT, "import os"], [TEXT, "import os"]),
        ([1, 306, 289], [[1, 306, 289]]),
        ([[1, 306], [289]], [[1, 306], [289]]),
        ({"prompt_string": TEXT}, [TEXT]),
        ({"content": [{"type": "text", "text": "def f"}, {"text": "(x):"}]}, [TEXT]),
        ("", [""]),
    ],
)
def test_the_vectors_are_those_of_llm(server: Running, given: Any, prompts: list[Any]) -> None:
    body = server.answer(PATH, input=given)
    assert body["object"] == "list"
    assert [item["index"] for item in body["data"]] == [*range(len(prompts))]
    vectors = np.array([item["embedding"] for item in body["data"]], np.float32)
    assert np.array_equal(vectors, server.llm.embed(prompts))
    n = sum(len(server.llm.prompt_ids(prompt)) for prompt in prompts)
    assert body["usage"] == {"prompt_tokens": n, "total_tokens": n}
    packed = server.answer(PATH, input=given, encoding_format="base64")["data"]
    bits = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in packed]
    assert np.array_equal(bits, vectors)


def test_openais_client(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        found = client.embeddings.create(model="any", input=[TEXT, "import os"])
    assert np.array_equal(
        np.array([item.embedding for item in found.data], np.float32),
        server.llm.embed([TEXT, "import os"]),
    )


@pytest.mark.parametrize(
    ("path", "body"), [("/embedding", {"content": TEXT}), ("/embeddings", {"input": TEXT})]
)
def test_llama_servers_own(server: Running, path: str, body: dict[str, Any]) -> None:
    (item,) = server.answer(path, **body)
    assert item["index"] == 0
    assert np.array_equal(np.array(item["embedding"], np.float32), server.llm.embed([TEXT]))
    (item,) = server.answer(path, embd_normalize=-1, **body)
    plain = server.llm.embed([TEXT], normalize=False)
    assert np.array_equal(np.array(item["embedding"], np.float32), plain)


def test_without_v1_it_is_openais_for_who_names_a_model(server: Running) -> None:
    found = server.answer("/embeddings", model="any", input=TEXT)
    assert found["data"] == server.answer(PATH, input=TEXT)["data"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": {"content": "text"}}, "input"),
        ({"input": {"content": [{"type": "image_url", "image_url": {}}]}}, "input"),
        ({"input": 5}, "input"),
        ({"input": [5000]}, "input"),
        ({"input": "x = 1\n" * 400}, "input"),
        ({"input": "a", "dimensions": 8}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"content": "a", "embd_normalize": 1}, "embd_normalize"),
    ],
)
def test_what_is_wrong_is_named(server: Running, body: dict[str, Any], param: str) -> None:
    assert server.refusal(PATH, 400, **body)["param"] == param


def test_a_full_queue_is_told(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    most = server.llm.n_parallel + server.server.service.settings.max_queue
    with monkeypatch.context() as patch:
        patch.setattr(server.server.service, "n_open", most)
        assert server.refusal(PATH, 503, input=TEXT)["type"] == "unavailable_error"
    server.refusal(PATH, 400, input=[5000])
    assert server.n_open == 0


def test_too_long_a_text_is_told_with_figures(server: Running) -> None:
    error = server.refusal(PATH, 400, input="x = 1\n" * 400)
    assert error["code"] == "context_length_exceeded"
    assert error["n_prompt_tokens"] > error["n_ctx"] == server.llm.n_ctx
