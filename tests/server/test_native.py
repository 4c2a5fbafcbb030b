"""`/completion`: llama-server's fields, and the texts of LLM."""

from __future__ import annotations

from typing import Any

import pytest
from support.scripted import Say
from support.serving import Running

from linnet import SamplingParams

PATH = "/completion"
TEXT = "def f(x):"
MIXED = [1, 306, "def f(x):", 289]


def asked(prompt: Any = TEXT, **body: Any) -> dict[str, Any]:
    return {"prompt": prompt, "n_predict": 8, "temperature": 0, **body}


def mixed_ids(server: Running) -> list[int]:
    return [1, 306, *server.llm.tokenizer.encode(TEXT, add_special=False), 289]


def test_an_answer_has_llama_servers_fields(server: Running) -> None:
    body = server.answer(PATH, **asked(seed=3, return_tokens=True))
    expected = server.llm.generate(TEXT, SamplingParams(max_tokens=8, temperature=0))
    tokenizer = server.llm.tokenizer
    timings, settings = body.pop("timings"), body.pop("generation_settings")
    assert body == {
        "index": 0, "id_slot": -1, "content": expected.text, "tokens": expected.token_ids,
        "stop": True, "model": server.llm.path.name, "tokens_predicted": 8,
        "tokens_evaluated": len(tokenizer.encode(TEXT)), "tokens_cached": timings["cache_n"],
        "prompt": tokenizer.decode(tokenizer.encode(TEXT), skip_special=False),
        "has_new_line": "\n" in expected.text, "truncated": False, "stop_type": "limit",
        "stopping_word": "",
    }  # fmt: skip
    assert timings["predicted_n"] == 8
    assert timings["cache_n"] + timings["prompt_n"] == body["tokens_evaluated"]
    assert (settings["n_predict"], settings["seed"], settings["temperature"]) == (8, 3, 0)
    assert settings["stream"] is False


@pytest.mark.parametrize("path", ["/completion", "/completions", "/v1/completion"])
def test_a_stream_has_what_the_body_has(server: Running, path: str) -> None:
    whole = server.answer(path, **asked(return_tokens=True))
    *chunks, last = [data for _, data in server.streamed(path, **asked())]
    assert [chunk["stop"] for chunk in chunks] == [False] * 8
    assert last["stop"] is True
    assert "".join(chunk["content"] for chunk in [*chunks, last]) == whole["content"]
    assert [token for chunk in chunks for token in chunk["tokens"]] == whole["tokens"]
    assert last.keys() == whole.keys()
    assert last["has_new_line"] == whole["has_new_line"]
    assert [chunk["tokens_predicted"] for chunk in chunks][-1] == last["tokens_predicted"] == 8


@pytest.mark.parametrize("prompt", [TEXT, [1, 306], MIXED, {"prompt_string": TEXT}], ids=str)
def test_a_prompt_of_any_kind(server: Running, prompt: Any) -> None:
    known = {str: prompt, dict: TEXT, list: mixed_ids(server) if prompt is MIXED else prompt}
    expected = server.llm.generate(known[type(prompt)], SamplingParams(max_tokens=8, temperature=0))
    alone = server.answer(PATH, **asked(prompt))
    assert alone["content"] == expected.text
    several = server.answer(PATH, **asked([prompt, TEXT]))
    assert [each["index"] for each in several] == [0, 1]
    assert several[0]["content"] == expected.text
    assert [each["content"] for each in server.answer(PATH, **asked([[1, 306]]))] != []


def test_several_answers_are_a_list(server: Running) -> None:
    bodies = server.answer(PATH, **asked([TEXT, [1, 306]], n_cmpl=2))
    assert [body["index"] for body in bodies] == [0, 1, 2, 3]
    assert bodies[0]["content"] == bodies[1]["content"] != bodies[2]["content"]


@pytest.mark.parametrize(
    ("said", "fields", "stop_type", "word", "content"),
    [
        ("one two", {}, "eos", "", "one two"),
        ("one two", {"stop": ["x", "wo"]}, "word", "wo", "one t"),
        ("one two", {"n_predict": 1}, "limit", "", None),
        ("one two", {"n_predict": 0}, "limit", "", ""),
    ],
)
def test_why_it_stopped(
    server: Running, say: Say, said: str, fields: dict[str, Any], stop_type: str, word: str,
    content: str | None,
) -> None:  # fmt: skip
    say(server.llm.tokenizer, said)
    body = server.answer(PATH, **asked(**{"n_predict": 32, **fields}))
    assert (body["stop_type"], body["stopping_word"]) == (stop_type, word)
    assert content is None or body["content"] == content
    assert body["truncated"] is False


def test_a_full_context_is_told(server: Running) -> None:
    n_ctx = server.llm.n_ctx
    body = server.answer(PATH, **asked([306] * (n_ctx - 2), n_predict=-1, ignore_eos=True))
    assert (body["stop_type"], body["truncated"]) == ("limit", True)
    assert body["tokens_evaluated"] + body["tokens_predicted"] == n_ctx + 1


def test_chunks_carry_what_is_asked_for(server: Running) -> None:
    given = asked("x = 1\n" * 40, timings_per_token=True, return_progress=True)
    *chunks, _ = [data for _, data in server.streamed(PATH, **given)]
    told = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert told[-1]["processed"] == told[-1]["total"] == chunks[0]["tokens_evaluated"]
    assert told[0].keys() == {"total", "cache", "processed", "time_ms"}
    n_done = [chunk["timings"]["prompt_n"] for chunk in chunks if "prompt_progress" in chunk]
    assert n_done[0] == 0
    assert n_done[-1] == told[-1]["total"] - told[-1]["cache"]
    counts = [chunk["timings"]["predicted_n"] for chunk in chunks if chunk["tokens"]]
    assert counts == sorted(counts)


def test_fields_may_be_chosen(server: Running) -> None:
    wanted = ["content", "generation_settings/n_predict", "nothing", "prompt/x"]
    body = server.answer(PATH, **asked(response_fields=wanted))
    assert body == {
        "content": server.answer(PATH, **asked())["content"], "generation_settings/n_predict": 8,
    }  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        {"n_indent": 2}, {"min_keep": 1}, {"t_max_predict_ms": 100}, {"lora": [{"id": 0}]},
        {"image_data": [{}]}, {"post_sampling_probs": True}, {"mirostat": 1}, {"n_cmpl": 9},
        {"n_probs": -1}, {"grammar": "root ::= 'a'"},
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(server: Running, body: dict[str, Any]) -> None:
    assert server.refusal(PATH, 400, **asked(**body))["param"] == next(iter(body))


def test_what_changes_nothing_is_accepted(server: Running) -> None:
    given = {"cache_prompt": False, "id_slot": 0, "n_keep": -1, "n_indent": 0, "lora": []}
    assert (
        server.answer(PATH, **asked(**given))["content"]
        == (server.answer(PATH, **asked())["content"])
    )


@pytest.mark.parametrize("as_object", [True, False])
def test_a_bias_is_for_ids_and_for_texts(server: Running, as_object: bool) -> None:
    first = server.answer(PATH, **asked(return_tokens=True))["tokens"][0]
    text = server.llm.tokenizer.decode([first])
    for token in (first, text):
        pairs = [[token, False if as_object else -1000]]
        bias = {str(token): value for token, value in pairs} if as_object else pairs
        body = server.answer(PATH, **asked(return_tokens=True, logit_bias=bias))
        assert first not in body["tokens"]


@pytest.mark.parametrize("bias", [[[1.5, 1]], [[True, 1]], {"x" * 257: 1}, [[1]], {"1": "a"}])
def test_a_bias_for_nothing_is_refused(server: Running, bias: Any) -> None:
    assert server.refusal(PATH, 400, **asked(logit_bias=bias))["param"] == "logit_bias"
