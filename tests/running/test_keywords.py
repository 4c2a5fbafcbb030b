"""Fields of SamplingParams as keywords of a call, and lists of prompts of which some are wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from support.gguf_builder import FLOAT32, STRING
from support.scripted import fail_amid
from support.tiny_llama import TinyLlama

from linnet import LLM, Output, SamplingParams

PROMPT = "once upon a time"
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
FIELDS: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
MESSAGES = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    suggested = ("general.sampling.temp", FLOAT32, 0.0)
    template = ("tokenizer.chat_template", STRING, TEMPLATE)
    tiny = TinyLlama(type="Q4_K", metadata=(suggested, template))
    with LLM(tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf"), n_threads=1) as llm:
        yield llm


CALLS: dict[str, Callable[..., Any]] = {
    "generate": lambda llm, *a, **k: llm.generate(PROMPT, *a, **k).token_ids,
    "a list": lambda llm, *a, **k: llm.generate([PROMPT], *a, **k)[0].token_ids,
    "generate_each": lambda llm, *a, **k: next(llm.generate_each([PROMPT], *a, **k))[1].token_ids,
    "stream": lambda llm, *a, **k: Output.of([*llm.stream(PROMPT, *a, **k)]).token_ids,
    "chat": lambda llm, *a, **k: llm.chat(MESSAGES, *a, **k).token_ids,
    "stream_chat": lambda llm, *a, **k: Output.of([*llm.stream_chat(MESSAGES, *a, **k)]).token_ids,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_fields_are_keywords(llm: LLM, call: Callable[..., list[int]]) -> None:
    expected = llm.generate(PROMPT, GREEDY).token_ids
    assert call(llm, **FIELDS) == expected
    assert call(llm, max_tokens=6, ignore_eos=True) == expected  # the rest as the file suggests
    assert call(llm, replace(GREEDY, max_tokens=3), max_tokens=6) == expected  # they count first
    with pytest.raises(TypeError, match=r"'temprature' is no field of Samp.*mean temperature"):
        call(llm, temprature=0)
    with pytest.raises(ValueError, match="temperature is -1; it must be a number from 0 to 100"):
        call(llm, GREEDY, temperature=-1)
    with pytest.raises(ValueError, match="params is 'greedy'; it must be a SamplingParams"):
        call(llm, "greedy", max_tokens=1)


def test_fields_count_for_each_of_a_list(llm: LLM) -> None:
    outputs = llm.generate([PROMPT, PROMPT], [GREEDY, replace(GREEDY, stop=["\0"])], max_tokens=2)
    assert [output.stats.n_generated for output in outputs] == [2, 2]


def test_params_of_nothing_new_are_the_same(llm: LLM) -> None:
    assert llm.sampling_params(GREEDY) is GREEDY
    assert llm.sampling_params(GREEDY, seed=7) == replace(GREEDY, seed=7)


# ---- lists of which some are wrong ---------------------------------------------------------------


def test_errors_stand_in_the_place_of_outputs(llm: LLM) -> None:
    told: list[tuple[int, int]] = []
    prompts: list[Any] = [PROMPT, [], None, "to be"]
    outputs = llm.generate(
        prompts, **FIELDS, return_exceptions=True, progress=lambda *n: told.append(n)
    )
    assert [type(output) for output in outputs] == [Output, ValueError, ValueError, Output]
    for index in (0, 3):
        output = outputs[index]
        assert isinstance(output, Output)
        assert output.token_ids == llm.generate(prompts[index], GREEDY).token_ids
    assert told == [(n, 4) for n in range(1, 5)]


def test_an_error_amid_a_generation_is_noted_or_returned(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_amid(monkeypatch)
    prompts = [[1, 5], [1, 6, 7], [1, 8, 9, 10]]
    with pytest.raises(MemoryError) as caught:
        llm.generate(prompts, **FIELDS)
    assert caught.value.__notes__ == ["prompts[1] of 3"]
    outputs = llm.generate(prompts, **FIELDS, return_exceptions=True)
    assert [type(output) for output in outputs] == [Output, MemoryError, Output]


def test_progress_shows_a_bar(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate([PROMPT] * 3, **FIELDS, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "prompts: 100%" in err
    assert "3/3" in err
    llm.generate([PROMPT] * 3, **FIELDS, progress=False)
    assert capsys.readouterr() == ("", "")
