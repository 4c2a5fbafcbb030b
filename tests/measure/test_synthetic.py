"""Models made up from shapes: they load, they run, and files of them hold the same."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT

from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.measure.bench.workload import Workload
from linnet.engine.measure.synthetic import SHAPES, random_weights, synthetic_model
from linnet.kernels.compiler.jit import Library
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.models import load_model

SCRIPT = ROOT / "scripts" / "synthetic.py"
# What the models' cards say, in billions: a wrong width or vocabulary shows.
BILLIONS = {
    "llama-3.2-1b": 1.236,
    "llama-3.1-8b": 8.030,
    "llama-160m": 0.162,
    "qwen2.5-0.5b": 0.494,
    "qwen3-0.6b": 0.596,
    "gemma-3-1b": 1.000,
    "phi-3.5-mini": 3.821,
    "qwen3-30b-a3b": 30.532,
    "gpt-oss-20b": 20.915,
    "granite-1b-a400m": 1.335,
}


def small(name: str, type: str = "Q4_K_M") -> Any:
    """A few layers and words of a shape: Gemma's layers take turns in sixes, experts are large."""
    n_layers = 6 if name.startswith("gemma") else 1 if "expert_count" in SHAPES[name].more else 2
    return synthetic_model(f"{name}:{type}", n_layers=n_layers, n_vocab=320)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_have_as_many_weights_as_the_real_model(name: str) -> None:
    n_weights = sum(int(np.prod(dims)) for _, dims in SHAPES[name].tensors().items())
    assert n_weights / 1e9 == pytest.approx(BILLIONS[name], abs=6e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_load_and_run(name: str, best_library: Library) -> None:
    made = small(name)
    model = load_model(made.metadata, made.tensors)
    assert model.config.n_vocab == 320
    workload = Workload(model, best_library, n_threads=1, n_ctx=8, n_batch=4)
    try:
        workload.prompt(6)
        first = np.array(workload.logits[0])
        workload.generate()
        for logits in (first, workload.logits[0]):
            assert np.isfinite(logits).all()
            assert 0.01 < logits.std() < 100
    finally:
        workload.close()


@pytest.mark.parametrize(
    ("name", "tensor", "type"),
    [
        ("llama-3.2-1b:Q4_K_M", "blk.0.ffn_gate.weight", "Q4_K"),
        ("llama-3.2-1b:Q4_K_M", "token_embd.weight", "Q6_K"),  # the output, too
        ("llama-160m:q4_k_m", "token_embd.weight", "Q4_K"),
        ("llama-160m", "output.weight", "Q6_K"),  # the type is Q4_K_M where none is given
        ("qwen2.5-0.5b:Q4_K_M", "blk.0.attn_q.weight", "Q5_0"),  # 896 columns
        ("qwen2.5-0.5b:Q4_K_M", "blk.0.attn_q.bias", "F32"),
        ("phi-3.5-mini:Q8_0", "blk.0.attn_qkv.weight", "Q8_0"),
        ("qwen3-30b-a3b:Q4_K_M", "blk.0.ffn_gate_exps.weight", "Q4_K"),
        ("qwen3-30b-a3b:Q4_K_M", "blk.0.ffn_gate_inp.weight", "F32"),
        ("gpt-oss-20b:MXFP4_MOE", "blk.0.ffn_up_exps.weight", "MXFP4"),
        ("gpt-oss-20b:MXFP4_MOE", "blk.0.attn_q.weight", "Q8_0"),
        ("gpt-oss-20b:MXFP4_MOE", "blk.0.ffn_up_exps.bias", "F32"),
    ],
)
def test_types_are_those_of_the_quantiser(name: str, tensor: str, type: str) -> None:
    assert synthetic_model(name, n_layers=1, n_vocab=320).tensors[tensor].type.name == type


@pytest.mark.parametrize("type", WEIGHT_TYPES.values(), ids=str)
def test_weights_are_small_and_around_zero(type: Any) -> None:
    packed = random_weights(np.random.default_rng(0), type, 64, 512)
    assert packed.shape == (64, type.row_bytes(512))
    weights = type.dequantize(packed)
    assert weights.std() == pytest.approx(0.02, rel=0.1)
    assert abs(weights.mean()) < 0.004


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("llama-9b:Q4_K_M", "model shape 'llama-9b' is unknown; it must be one of llama-3.2-1b, "),
        ("llama-160m:Q3_Z", "type 'Q3_Z' is unknown; it must be one of "),
        (":", "model shape '' is unknown"),
    ],
)
def test_unknown_names_are_told(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_model(name, n_layers=1, n_vocab=320)


def test_a_file_holds_the_same(tmp_path: Path) -> None:
    made = small("qwen2.5-0.5b")
    write = runpy.run_path(str(SCRIPT))["write"]
    write(tmp_path / "model.gguf", made)
    with GGUFFile(tmp_path / "model.gguf") as file:
        for key, value in made.metadata.items():
            assert file.metadata[key] == pytest.approx(value) if value else True
        assert file.tensors.keys() == made.tensors.keys()
        for name, tensor in made.tensors.items():
            found = file.tensors[name]
            assert (found.type, found.shape) == (tensor.type, tensor.shape)
            assert np.array_equal(found.data, tensor.data)
        assert len(file.get("tokenizer.ggml.tokens", list)) == 320
