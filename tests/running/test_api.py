"""The Python API at first sight: what it shows of itself, what it takes, what errors lead to."""

from __future__ import annotations

import inspect
import logging
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT
from support.gguf_builder import STRING
from support.tiny_llama import TinyLlama

from linnet import LLM, SamplingParams
from linnet.engine.extras import DISTRIBUTION
from linnet.engine.sampling.elsewhere import ELSEWHERE
from linnet.engine.sampling.params import PARAMETERS

PROMPTS = ["once upon", "a time", "to be"]
FIELDS: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = TinyLlama(type="Q4_K", metadata=(("general.name", STRING, "Tiny"),))
    return tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[LLM]:
    with LLM(path, n_threads=1, n_ctx=64) as llm:
        yield llm


def test_a_model_shows_what_it_is(path: Path) -> None:
    with LLM(path, n_threads=1, n_ctx=64) as llm:
        shown = repr(llm)
        assert shown.startswith("LLM('tiny.gguf', name='Tiny', model='llama ")
        assert shown.endswith("Q4_K', n_ctx=64)")
    assert repr(llm) == "LLM('tiny.gguf', closed)"
    for call in (lambda: llm.generate("to"), lambda: llm.embed("to"), lambda: llm.logits([1])):
        with pytest.raises(RuntimeError, match="the model is closed"):
            call()


def test_help_shows_what_is_taken() -> None:
    signature = inspect.signature(LLM.generate)
    kinds = [signature.parameters[name].annotation for name in ("prompts", "params")]
    assert kinds == ["Prompt | Prompts", "Params | None"]
    assert signature.return_annotation == "Output | list[Output] | list[Output | Exception]"
    assert [*inspect.signature(SamplingParams).parameters] == [*PARAMETERS]


@pytest.mark.parametrize("of", [list, tuple, iter, np.array], ids=lambda of: of.__name__)
def test_prompts_come_in_any_row(llm: LLM, of: Callable[[list[str]], Any]) -> None:
    expected = [llm.generate(prompt, **FIELDS).token_ids for prompt in PROMPTS]
    assert [out.token_ids for out in llm.generate(of(PROMPTS), **FIELDS)] == expected
    each = dict(llm.generate_each(of(PROMPTS), **FIELDS))
    assert [each[index].token_ids for index in range(3)] == expected  # type: ignore[union-attr]
    ids = [llm.tokenizer.encode(prompt) for prompt in PROMPTS]
    assert [out.token_ids for out in llm.generate(of(ids[:1]), **FIELDS)] == expected[:1]
    assert llm.generate(np.array(ids[0]), **FIELDS).token_ids == expected[0]


def test_a_text_alone_has_a_vector_alone(llm: LLM) -> None:
    vector = llm.embed("to be")
    assert vector.shape == (llm.config.n_embd,)
    assert np.array_equal(vector, llm.embed(["to be"])[0])


@pytest.mark.parametrize("text", [b"to be", None, ["to"]], ids=repr)
def test_what_is_no_text_is_not_encoded(llm: LLM, text: Any) -> None:
    with pytest.raises(ValueError, match=r"text is .*; it must be a str"):
        llm.tokenizer.encode(text)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_other_packages_names_lead_to_ours(llm: LLM, name: str) -> None:
    assert name not in PARAMETERS
    message = f"'{name}' is no field of SamplingParams; here it is "
    for call in (SamplingParams, llm.sampling_params):
        with pytest.raises(TypeError, match=message):
            call(**{name: 1})


def test_minus_one_is_none_or_off() -> None:
    params = SamplingParams(seed=-1, max_tokens=-1, logprobs=-1, top_k=-1)
    assert params == SamplingParams(seed=None, max_tokens=None, logprobs=None, top_k=0)
    for name in ("min_tokens", "xtc_probability"):
        with pytest.raises(ValueError, match=f"{name} is -1"):
            SamplingParams(**{name: -1})


# ---- logging -------------------------------------------------------------------------------------


def test_those_who_listen_hear_hears_what_is_done(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LINNET_CACHE_DIR", str(tmp_path / "kernels"))

    def heard(level: int) -> str:
        caplog.clear()
        with caplog.at_level(level, "linnet"), LLM(path, n_threads=1, n_ctx=64) as llm:
            llm.generate("to", max_tokens=1)
        return caplog.text

    said = heard(logging.INFO)
    for part in (f"{path}: mapped", f"kernels for {LLM(path).isa} ", "1 threads", " compiled in "):
        assert part in said
    assert " compiled in " not in heard(logging.INFO)  # they are in the cache
    assert ": compiled before" in heard(logging.DEBUG)
    assert heard(logging.WARNING) == ""


# ---- how to install ------------------------------------------------------------------------------


def test_messages_name_extras_that_there_are() -> None:
    """By the distribution's own name: `linnet` on the index is somebody else's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
    folders = ("engine", "kernels", "models", "linnet")
    text = "".join(file.read_text() for each in folders for file in (ROOT / each).rglob("*.py"))
    named = re.findall(r"installing\(['\"](\w+)", text) + re.findall(r"linnet-llm\[(\w+)\]", text)
    assert {"serve", "plot", "structured"} <= {*named} <= {*project["optional-dependencies"]}
    assert not re.findall(r"linnet\[|pip install .?linnet", text)
