"""What samplers leave of logits against what llama.cpp's left, as `scripts/compare_samplers.py`
recorded it; the file says by which version."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import compare_samplers
import numpy as np
import pytest
from support import ROOT
from support.sampler_cases import TOKENIZER, Run

from linnet import Tokenizer
from linnet.engine.sampling.chain import make_chain
from linnet.engine.sampling.params import DEFAULT_ORDER, SamplingParams

RECORD = json.loads((ROOT / "tests/data/samplers.json").read_text())
CASES = RECORD["cases"]


def test_every_sampler_is_on_record_in_both_orders() -> None:
    assert RECORD["made_by"].startswith("llama-cpp-python 0.")
    chains = [make_chain(SamplingParams(**case["params"])) for case in CASES]
    assert {f.__name__ for chain in chains for f in chain} == {*DEFAULT_ORDER, "mirostat"}
    usual = [case["params"]["samplers"] == [*DEFAULT_ORDER] for case in CASES]
    assert 10 < sum(usual) < len(CASES) - 10


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_what_is_left_is_what_llamacpp_leaves(case: dict[str, Any]) -> None:
    run = Run(SamplingParams(**case["params"]), case["prompt"])
    for logits, step in zip(case["logits"], case["steps"], strict=True):
        left = run.step(np.array(logits, np.float32), step["chosen"])
        expected = {int(token_id): p for token_id, p in step["expected"].items()}
        assert left == pytest.approx(expected, rel=1e-3)


def test_the_file_for_llamacpp_holds_the_same_vocabulary(tmp_path: Path) -> None:
    compare_samplers.write_vocabulary(tmp_path / "small.gguf")
    written = Tokenizer.from_gguf(tmp_path / "small.gguf").vocabulary
    assert written.texts == TOKENIZER.vocabulary.texts
    assert written.eog_ids == TOKENIZER.eog_ids
    for text in compare_samplers.WORDS + compare_samplers.BREAKERS:
        ids = Tokenizer.from_gguf(tmp_path / "small.gguf").encode(text)
        assert ids == TOKENIZER.encode(text)


def test_the_script_tells_what_differs() -> None:
    case = compare_samplers.make_case(random.Random(4), TOKENIZER)
    case["params"] = {"temperature": 1.0, "top_k": 2, "top_p": 1.0, "min_p": 0.0}
    run = Run(SamplingParams(**case["params"]), case["prompt"])
    left = run.step(np.array(case["logits"][0], np.float32), None)
    steps = [{"expected": left, "chosen": None}]
    case["logits"] = case["logits"][:1]
    assert compare_samplers.differs(case, steps, TOKENIZER) == ""
    first, last = left
    steps = [{"expected": {first: left[first] * 1.01, last: left[last]}, "chosen": None}]
    assert "off by 0.0099" in compare_samplers.differs(case, steps, TOKENIZER)
    steps = [{"expected": {first: 1.0}, "chosen": None}]
    assert f"tokens [{last}] are only in one" in compare_samplers.differs(case, steps, TOKENIZER)
