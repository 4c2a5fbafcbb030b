"""`/v1/completions`: the texts of LLM, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import openai
import pytest
from support.serving import Running

from linnet import SamplingParams

PATH = "/v1/completions"
PROMPTS: dict[str, Any] = {
    "a text": "def f(x):",
    "texts": ["def f(x):", "import os\n"],
    "ids": [1, 306, 289, 1974],
    "lists of ids": [[1, 306, 289, 1974], [1, 306]],
    "a list of one": ["def f(x):"],
    "a text and ids": ["def f(x):", [1, 306]],
}


def asked(prompt: Any = "def f(x):", **body: Any) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": 8, "temperature": 0, **body}


def expected(server: Running, given: Any, **fields: Any) -> list[str]:
    """What LLM says to the prompts of a request."""
    prompts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    params = SamplingParams(**{"max_tokens": 8, "temperature": 0, **fields})
    return [output.text for output in server.llm.generate(prompts, params)]


def texts(choices: Sequence[dict[str, Any]]) -> list[str]:
    """The texts of choices, or of the chunks of a stream, by index."""
    found = [""] * (1 + max(choice["index"] for choice in choices))
    for choice in choices:
        found[choice["index"]] += choice["text"]
    return found


def streamed(server: Running, **body: Any) -> list[Any]:
    *chunks, last = server.streamed(PATH, **body)
    assert last.data == "[DONE]"
    return [data for _, data in chunks]


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_the_texts_are_those_of_llm(server: Running, prompt: Any) -> None:
    body = server.answer(PATH, **asked(prompt))
    assert texts(body["choices"]) == expected(server, prompt)
    assert body["object"] == "text_completion"
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    chunks = streamed(server, **asked(prompt))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert texts(choices) == texts(body["choices"])
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["length"] * len(
        body["choices"]
    )
    assert all(choice["text"] or choice["finish_reason"] for choice in choices)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1


def test_without_v1_it_is_openais_for_who_names_a_model(server: Running) -> None:
    ours = server.answer("/completions", **asked(model="any"))
    assert ours["choices"][0]["text"] == server.answer("/completions", **asked())["content"]


def test_choices_are_numbered_over_all_prompts(server: Running) -> None:
    prompts = ["def f(x):", "import os\n"]
    fields = {"temperature": 1, "seed": 5}
    body = server.answer(PATH, **asked(prompts, n=2, **fields))
    of_seeds = [expected(server, prompts, **{**fields, "seed": seed}) for seed in (5, 6)]
    by_prompt = [text for pair in zip(*of_seeds, strict=True) for text in pair]
    assert texts(body["choices"]) == by_prompt
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]


def test_usage_counts_each_prompt_once(server: Running) -> None:
    body = server.answer(PATH, **asked(["def f(x):", [1, 306]], n=2))
    n = len(server.llm.tokenizer.encode("def f(x):")) + 2
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (n, 4 * 8)
    assert usage["total_tokens"] == n + 4 * 8
    options = {"stream_options": {"include_usage": True}}
    last = streamed(server, **asked(["def f(x):", [1, 306]], n=2, **options))[-1]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == n + 4 * 8
    assert last["timings"]["predicted_n"] == body["timings"]["predicted_n"] == 8


@pytest.mark.parametrize("max_tokens", [0, 3])
@pytest.mark.parametrize("prompt", ["def f(x):", [306, 289]], ids=["text", "ids"])
def test_an_echo_comes_first(server: Running, prompt: Any, max_tokens: int) -> None:
    said = prompt if isinstance(prompt, str) else server.llm.tokenizer.decode(prompt)
    given = asked(prompt, echo=True, max_tokens=max_tokens)
    body = server.answer(PATH, **given)
    assert body["choices"][0]["text"] == said + expected(server, prompt, max_tokens=max_tokens)[0]
    choices = [choice for chunk in streamed(server, **given) for choice in chunk["choices"]]
    assert choices[0]["text"].startswith(said)
    assert texts(choices) == texts(body["choices"])


def test_a_prompt_may_spell_control_tokens(server: Running) -> None:
    """As /apply-template writes them."""
    name = server.llm.tokenizer.vocabulary.texts[1]
    body = server.answer(PATH, **asked(f"{name}def f(x):"))
    assert body["usage"]["prompt_tokens"] == len(server.llm.tokenizer.encode("def f(x):"))


def test_progress_is_told(server: Running) -> None:
    chunks = streamed(server, **asked("x = 1\n" * 40, return_progress=True))
    told = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert told[0]["processed"] == told[0]["cache"]
    assert told[-1]["processed"] == told[-1]["total"]
    assert all(chunk["choices"] == [] for chunk in chunks[: len(told)])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [["a", True]]}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": {"prompt_string": "a", "multimodal_data": ["AAAA"]}}, "prompt"),
        ({"prompt": [2048]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": "x = 1\n" * 400}, "prompt"),
        ({"prompt": [[1]] * 73}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "n": 9}, "n"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "echo": "yes"}, "echo"),
        ({"prompt": "a", "temperature": -1}, "temperature"),
    ],
)
def test_what_is_wrong_is_named(server: Running, body: dict[str, Any], param: str) -> None:
    error = server.refusal(PATH, 400, **body)
    assert error["param"] == param, error
    server.rests()


def test_what_is_off_is_accepted(server: Running) -> None:
    given = {
        "suffix": "", "best_of": 1, "user": "me", "logit_bias": None, "grammar": "",
        "response_format": {"type": "text"}, "stop": None,
    }  # fmt: skip
    assert server.answer(PATH, **asked(**given)) is not None


def test_openais_client(server: Running) -> None:
    prompts = ["def f(x):", "import os\n"]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        whole = client.completions.create(
            model="any", prompt=prompts, max_tokens=8, temperature=0, n=2
        )
        stream = client.completions.create(
            model="any", prompt=prompts, max_tokens=8, temperature=0, stream=True
        )
        chunks = [choice.model_dump() for chunk in stream for choice in chunk.choices]
    said = expected(server, prompts)
    assert [choice.text for choice in whole.choices] == [said[0], said[0], said[1], said[1]]
    assert texts(chunks) == said
