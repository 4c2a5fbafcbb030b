"""What a file says and a model does not ask for: an error, a warning, or nothing."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.model_runner import Runner
from support.tiny_architectures import HEAD_DIM, N_CTX, N_EMBD, TINY, NamedTensor

from linnet import LLM
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.models import Model, ModelError, load_model

TOKENS = [3, 5, 7, 11, 2, 9]


def vector(*numbers: float) -> NamedTensor:
    packed = np.array(numbers, np.float32)
    return NamedTensor(WEIGHT_TYPES["F32"], packed.shape, packed.view(np.uint8))


def load(name: str, keys: dict[str, Any], tensors: dict[str, Any], **options: bool) -> Model:
    tiny = TINY[name]
    metadata = tiny.metadata() | {f"{tiny.name}.{key}": value for key, value in keys.items()}
    return load_model(metadata, tiny.tensors() | tensors, **options)


CHANGING = [
    ("llama", "attention.clamp_kqv", 8.0),
    ("llama", "attention.max_alibi_bias", 8.0),
    ("llama", "attention.sliding_window", N_CTX - 1),
    ("llama", "attention.scale", 0.5),
    ("llama", "logit_scale", 0.0625),
    ("llama", "residual_scale", 0.22),
    ("llama", "final_logit_softcapping", 15.0),
    ("llama", "swiglu_clamp_exp", np.array([0.0, 7.0])),
    ("llama", "hidden_activation", "gelu"),
    ("llama", "not_thought_of_yet", 1),
    ("llama with experts", "expert_gating_func", 2),
    ("llama with experts", "expert_weights_scale", 2.5),
    ("qwen3", "rope.freq_base_swa", 1e6),
    ("qwen3", "rope.dimension_count_swa", HEAD_DIM // 2),
    ("llama with yarn", "rope.scaling.yarn_attn_factor", 0.7),
]


@pytest.mark.parametrize(("name", "key", "value"), CHANGING)
def test_a_key_that_may_change_results_is_an_error_unless_ignored(
    name: str, key: str, value: object
) -> None:
    with pytest.raises(ModelError, match=rf"{TINY[name].name}\.{key} .*--ignore-unknown"):
        load(name, {key: value}, {})
    with pytest.warns(UserWarning, match=rf"{key} .*; ignored"):
        load(name, {key: value}, {}, ignore_unknown=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.clamp_kqv", 0.0),
        ("attention.sliding_window", N_CTX),
        ("attention.scale", float(np.float32(1 / math.sqrt(HEAD_DIM)))),
        ("logit_scale", 1.0),
        ("final_logit_softcapping", 30.0),
        ("swiglu_clamp_exp", np.zeros(2, np.float32)),
        ("ssm.state_size", 128),
        ("rope.freq_base_swa", 500.0),
        ("rope.dimension_count_swa", HEAD_DIM),
        ("tensor_data_layout", "Meta AI original pth"),
        ("not_thought_of_yet", False),
        ("not_thought_of_yet", ""),
        ("vocab_size", 96),
        ("attention.causal", True),
    ],
)
def test_a_key_that_cannot_matter_is_nothing_to_speak_of(key: str, value: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("llama", {key: value}, {})


ONES = vector(*[1.0] * N_EMBD)


@pytest.mark.parametrize(
    "name",
    ["blk.0.attn_q_norm.weight", "blk.1.attn_sub_norm.weight", "token_embd_norm.weight",
     "blk.3.ffn_up.weight", "v.patch_embd.weight", "blk.0.attn_norm.bias", "blk.0.nothing.scale"],
)  # fmt: skip
def test_a_tensor_that_is_not_used_is_an_error_unless_ignored(name: str) -> None:
    with pytest.raises(ModelError, match=rf"no use for {name}, which may .*--ignore-unknown"):
        load("llama", {}, {name: ONES})
    with pytest.warns(UserWarning, match=f"{name}.*; ignored"):
        load("llama", {}, {name: ONES}, ignore_unknown=True)


def test_layers_beyond_the_block_count_are_not_left_out() -> None:
    fewer = TINY["llama"].n_layers - 1
    with pytest.raises(ModelError, match=rf"blk\.{fewer}\..* and \d+ more, which may"):
        load("llama", {"block_count": fewer}, {})


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("blk.0.attn_norm.bias", vector(*[0.0] * N_EMBD)),
        ("blk.0.attn_q.input_scale", vector(0.3)),
        ("cls.output.weight", ONES),
    ],
)
def test_a_tensor_that_cannot_matter_is_nothing_to_speak_of(name: str, tensor: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("qwen3", {}, {name: tensor})


@pytest.mark.parametrize(
    ("name", "matrix", "n"),
    [("qwen2", "ffn_up", 1), ("gpt-oss", "ffn_down_exps", 6), ("granite", "ffn_gate", 1)],
)
def test_scales_that_llama_cpp_leaves_out_are_a_warning(name: str, matrix: str, n: int) -> None:
    scale = f"blk.0.{matrix}.scale"
    with pytest.warns(UserWarning, match=f"does not use {scale}; nor does linnet"):
        load(name, {}, {scale: vector(*[3.0] * n)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(name, {}, {scale: vector(*[1.0] * n)})


def test_the_bias_that_llama_cpp_leaves_out_of_ernie_is_a_warning(runner: Any) -> None:
    bias = "blk.0.attn_output.bias"
    plain = load("ernie4_5", {}, {})
    with pytest.warns(UserWarning, match=f"does not use {bias}"):
        biased = load("ernie4_5", {}, {bias: ONES})
    assert runner(biased).run(TOKENS).tobytes() == runner(plain).run(TOKENS).tobytes()


def test_the_scale_of_a_matrix_in_nvfp4_is_a_part_of_it_everywhere(runner: Any) -> None:
    """Even where llama.cpp leaves scales out."""
    tiny = TINY["qwen2"]
    up = tiny.weights()["blk.0.ffn_up.weight"]
    type = WEIGHT_TYPES["NVFP4"]
    packed = np.random.default_rng(1).integers(32, 64, len(up) * type.row_bytes(64), np.uint8)
    matrix = {"blk.0.ffn_up.weight": NamedTensor(type, up.shape, packed)}
    logits = [
        runner(load("qwen2", {}, matrix | more)).run(TOKENS)
        for more in ({}, {"blk.0.ffn_up.scale": vector(1.0)}, {"blk.0.ffn_up.scale": vector(3.0)})
    ]
    assert np.array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], logits[2])


# ---- keys that change results, and are used ------------------------------------------------------


def logits_of(runner: Any, name: str, **keys: Any) -> np.ndarray:
    run: Runner = runner(load(name, {k.replace("__", "."): v for k, v in keys.items()}, {}))
    return run.run(TOKENS)


@pytest.mark.parametrize("name", ["llama", "qwen3", "starcoder2"])
def test_the_old_key_scales_positions_where_the_new_one_is_missing(runner: Any, name: str) -> None:
    new = logits_of(runner, name, rope__scaling__factor=4.0)
    assert np.array_equal(logits_of(runner, name, rope__scale_linear=4.0), new)
    both = logits_of(runner, name, rope__scale_linear=2.0, rope__scaling__factor=4.0)
    assert np.array_equal(both, new)
    assert not np.array_equal(logits_of(runner, name), new)


def test_gemma_scales_scores_as_the_file_says(runner: Any) -> None:
    usual = logits_of(runner, "gemma2")
    assert np.array_equal(logits_of(runner, "gemma2", attention__scale=0.0), usual)
    assert not np.array_equal(logits_of(runner, "gemma2", attention__scale=0.5), usual)


def test_another_vocab_size_is_a_warning(runner: Any) -> None:
    usual = logits_of(runner, "llama")
    for size in (0, 95, 97):
        with pytest.warns(UserWarning, match=f"llama.vocab_size is {size}; .* 96 rows"):
            assert np.array_equal(logits_of(runner, "llama", vocab_size=size), usual)


POOLINGS = {0: "mean", 1: "mean", 2: "cls", 3: "last", 2**32 - 1: "mean"}


@pytest.mark.parametrize("number", POOLINGS)
def test_texts_become_vectors_as_the_file_says(tmp_path: Path, number: int) -> None:
    tiny = TINY["qwen3"]
    keys = {**tiny.keys, "pooling_type": number}
    path = replace(tiny, keys=keys).write(tmp_path / "m.gguf")
    with LLM(path, activations="f32") as llm:
        vectors = {how: llm.embed([TOKENS], pooling=how) for how in ("mean", "cls", "last")}
        assert np.array_equal(llm.embed([TOKENS]), vectors[POOLINGS[number]])
        assert not np.array_equal(vectors["cls"], vectors["last"])
        assert np.array_equal(vectors["cls"], llm.embed([TOKENS[:1]]))


def test_a_ranker_gives_no_vectors_unless_told_how(tmp_path: Path) -> None:
    tiny = TINY["qwen3"]
    path = replace(tiny, keys={**tiny.keys, "pooling_type": 4}).write(tmp_path / "m.gguf")
    with LLM(path) as llm:
        with pytest.raises(ModelError, match=r"m\.gguf': qwen3.pooling_type is rank, for scores"):
            llm.embed([TOKENS])
        assert llm.embed([TOKENS], pooling="last").shape == (1, N_EMBD)


def test_the_python_api_can_ignore_what_is_unknown(tmp_path: Path) -> None:
    tiny = TINY["llama"]
    path = replace(tiny, keys={**tiny.keys, "attention.clamp_kqv": 8.0}).write(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match=r"m\.gguf': .*llama\.attention\.clamp_kqv \(8\.0\)"):
        LLM(path)
    with pytest.warns(UserWarning, match="clamp_kqv"), LLM(path, ignore_unknown=True) as llm:
        assert llm.logits(TOKENS).shape[0] == len(TOKENS)
