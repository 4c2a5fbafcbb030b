"""Log-probabilities, in each API's shape: those of the model's logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import openai
import pytest
from support.scripted import Say
from support.serving import Running, asked

from linnet import SamplingParams, TokenLogprob
from linnet.engine.sampling.params import MOST_LOGPROBS

PATH = "/v1/completions"
PROMPTS = {
    "text": "def f(x):\n    return x",
    "characters in parts": "é 🤗 媽",
    "a control token": "<s>def f",
    "ids": [306, 289, 1974, 1984],
    "one id": [306],
    "more than a pass": "x = 1\n" * 40,
}


def ids_of(server: Running, prompt: Any) -> list[int]:
    if isinstance(prompt, list):
        return prompt
    return server.llm.tokenizer.encode(prompt, parse_special=True)


def log_likelihoods(server: Running, ids: Sequence[int]) -> list[float]:
    """Of each token but the first, from what `linnet logits` writes."""
    logits = server.llm.logits(ids).astype(np.float64)
    highest = logits.max(axis=1)
    totals = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    return [float(logits[i, each] - totals[i]) for i, each in enumerate(ids[1:])]


def columns(server: Running, prompt: Any, **body: Any) -> dict[str, Any]:
    given = {"prompt": prompt, "temperature": 0, "logprobs": 1, **body}
    choice = server.answer(PATH, **given)["choices"][0]
    *chunks, _ = server.streamed(PATH, **given)
    parts = [part for _, chunk in chunks for part in chunk["choices"]]
    for name, column in choice["logprobs"].items():
        tables = [part["logprobs"][name] for part in parts if part["logprobs"]]
        assert [item for table in tables for item in table] == column
    found: dict[str, Any] = {**choice["logprobs"], "text": choice["text"]}
    return found


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_an_echo_has_the_prompts_log_likelihoods(
    server: Running, prompt: Any, max_tokens: int
) -> None:
    """As lm-eval asks for them."""
    ids = ids_of(server, prompt)
    found = columns(server, prompt, echo=True, max_tokens=max_tokens)
    logprobs, tops = (found[name][: len(ids)] for name in ("token_logprobs", "top_logprobs"))
    assert len(found["tokens"]) == len(ids) + max_tokens
    assert logprobs[0] is tops[0] is None
    assert logprobs[1:] == pytest.approx(log_likelihoods(server, ids), abs=1e-5)
    params = SamplingParams(max_tokens=0, prompt_logprobs=1, logprobs=1)
    expected = server.llm.generate(ids, params).prompt_logprobs
    assert expected is not None
    assert logprobs == [each and each.logprob for each in expected]
    for each, logprob, top in zip(expected[1:], logprobs[1:], tops[1:], strict=True):
        assert each is not None
        assert {each.logprob, each.top[0][1]} == set(top.values())
        assert max(top.values()) >= logprob


@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_tokens_are_where_they_say(server: Running, prompt: Any, echo: bool) -> None:
    found = columns(server, prompt, echo=echo, max_tokens=8)
    text, tokens, offsets = found["text"], found["tokens"], found["text_offset"]
    assert len(tokens) == len(offsets) == 8 + echo * len(ids_of(server, prompt))
    assert offsets == sorted(offsets)
    if echo and prompt == PROMPTS["characters in parts"]:
        assert any(token.startswith("bytes:\\xf0") for token in tokens)
    for token, offset in zip(tokens, offsets, strict=True):
        if not token.startswith("bytes:") and token != "<s>":
            assert text[offset:].startswith(token)


def test_the_end_token_has_a_row(server: Running, say: Say) -> None:
    """Whoever asks for one token after the prompt finds one: lm-eval drops the last row."""
    tokenizer = server.llm.tokenizer
    for said, n in (("", 1), ("x y", 3)):
        ids = say(tokenizer, said)
        found = columns(server, "def f", echo=True, max_tokens=n)
        named = [tokenizer.token_bytes(i).decode() for i in ids]
        n_prompt = len(ids_of(server, "def f"))
        end = tokenizer.vocabulary.texts[tokenizer.eos_id or 0]
        assert found["tokens"][n_prompt:] == [*named, end][: max(n, len(ids) + 1)]
        assert found["text"] == "def f" + said


def test_as_many_as_asked_for_and_the_token(server: Running) -> None:
    sampled = columns(server, "def f", max_tokens=8, temperature=2, seed=1, top_k=0, logprobs=3)
    for token, logprob, top in zip(
        sampled["tokens"], sampled["token_logprobs"], sampled["top_logprobs"], strict=True
    ):
        assert top[token] == logprob
        assert 3 <= len(top) <= 4
    assert any(len(top) == 4 for top in sampled["top_logprobs"])
    alone = columns(server, "def f", max_tokens=2, logprobs=0)
    assert [len(top) for top in alone["top_logprobs"]] == [1, 1]
    most = columns(server, "def f", max_tokens=2, logprobs=MOST_LOGPROBS)
    assert [len(top) for top in most["top_logprobs"]] == [MOST_LOGPROBS] * 2


def entries(server: Running, logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """As a chat has them."""

    def one(token_id: int, logprob: float) -> dict[str, Any]:
        data = server.llm.tokenizer.token_bytes(token_id)
        text = data.decode(errors="replace")
        return {"id": token_id, "token": text, "bytes": [*data], "logprob": logprob}

    return [
        {**one(each.token_id, each.logprob), "top_logprobs": [one(*pair) for pair in each.top]}
        for each in logprobs
    ]


@pytest.mark.parametrize("stop", [None, "a string that is not there"])
@pytest.mark.parametrize("n_top", [None, 0, 5])
def test_a_chat_has_an_entry_for_each_token(
    server: Running, n_top: int | None, stop: str | None
) -> None:
    body = asked(logprobs=True, top_logprobs=n_top, stop=stop, max_tokens=12)
    params = SamplingParams(max_tokens=12, temperature=0, logprobs=n_top or 0)
    variables = {"enable_thinking": True}
    output = server.llm.chat(body["messages"], params, chat_template_kwargs=variables)
    assert output.logprobs is not None
    expected = entries(server, output.logprobs)
    choice = server.answer("/v1/chat/completions", **body)["choices"][0]
    assert choice["logprobs"]["content"] == expected
    *chunks, _ = server.streamed("/v1/chat/completions", **body)
    parts = [chunk["choices"][0] for _, chunk in chunks]
    told = [entry for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]]
    assert told == expected
    data = bytes(byte for entry in told for byte in entry["bytes"])
    assert data.decode(errors="replace") == choice["message"]["content"]


def test_entries_come_while_text_is_held_back(server: Running, say: Say) -> None:
    ids = say(server.llm.tokenizer, "one two three")
    body = asked(logprobs=True, stop="one two three four", max_tokens=32)
    *chunks, _ = server.streamed("/v1/chat/completions", **body)
    parts = [chunk["choices"][0] for _, chunk in chunks]
    with_entries = [part for part in parts if part["logprobs"]]
    assert [part["logprobs"]["content"][0]["id"] for part in with_entries] == ids
    assert all(part["delta"] == {} for part in with_entries)
    assert "".join(part["delta"].get("content") or "" for part in parts) == "one two three"


def test_none_where_none_are_asked_for(server: Running) -> None:
    assert server.chat()["choices"][0]["logprobs"] is None
    assert all(chunk["choices"][0]["logprobs"] is None for chunk in server.chat_stream())
    body = server.answer(PATH, prompt="def f", max_tokens=2)
    assert body["choices"][0]["logprobs"] is None
    assert "completion_probabilities" not in server.answer("/completion", prompt="a", n_predict=2)


def test_llama_servers_shape(server: Running) -> None:
    given = {"prompt": "def f", "n_predict": 4, "temperature": 0, "n_probs": 3}
    output = server.llm.generate("def f", SamplingParams(max_tokens=4, temperature=0, logprobs=3))
    assert output.logprobs is not None
    expected = entries(server, output.logprobs)
    whole = server.answer("/completion", **given)
    assert whole["completion_probabilities"] == expected
    *chunks, last = [data for _, data in server.streamed("/completion", **given)]
    assert [chunk["completion_probabilities"] for chunk in chunks] == [[each] for each in expected]
    assert "completion_probabilities" not in last


def test_openais_client(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        messages: Any = [{"role": "user", "content": "def f"}]
        chat = client.chat.completions.create(
            model="any", messages=messages, max_tokens=3, logprobs=True, top_logprobs=2
        )
        text = client.completions.create(
            model="any", prompt="def f", max_tokens=0, echo=True, logprobs=1
        )
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [len(token.top_logprobs) for token in logprobs.content] == [2, 2, 2]
    found = text.choices[0].logprobs
    assert found is not None
    assert found.token_logprobs is not None
    assert math.fsum(found.token_logprobs[1:]) == pytest.approx(
        math.fsum(log_likelihoods(server, ids_of(server, "def f"))), abs=1e-5
    )


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (PATH, {"prompt": "a", "logprobs": MOST_LOGPROBS + 1}, "logprobs"),
        (PATH, {"prompt": "a", "logprobs": -1}, "logprobs"),
        ("/completion", {"prompt": "a", "n_probs": MOST_LOGPROBS + 1}, "n_probs"),
        ("/v1/chat/completions", asked(logprobs=True, top_logprobs=21), "top_logprobs"),
        ("/v1/chat/completions", asked(top_logprobs=2), "top_logprobs"),
    ],
)
def test_what_is_wrong_is_named(
    server: Running, path: str, body: dict[str, Any], param: str
) -> None:
    assert server.refusal(path, 400, **body)["param"] == param
