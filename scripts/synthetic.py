"""Write a GGUF file of a real model's shapes with random packed weights, to measure speed with.

usage: python scripts/synthetic.py llama-3.2-1b:Q4_K_M OUT.gguf

Every engine can load it; what it says is noise. Weights have a standard deviation of 0.02, so
that activations stay finite.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gguf
import numpy as np
import numpy.typing as npt

from linnet.engine.mixes import MIXES, choose_types
from linnet.kernels.quants import WEIGHT_TYPES, WeightType

BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
N_PATTERN = 4096  # blocks of random weights, repeated through a tensor


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama."""

    n_layers: int
    n_embd: int
    n_ff: int
    n_heads: int
    n_kv_heads: int
    n_vocab: int
    tied: bool

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape slowest first)"""
        n_kv = self.n_embd // self.n_heads * self.n_kv_heads
        yield "token_embd.weight", (self.n_vocab, self.n_embd)
        for i in range(self.n_layers):
            yield f"blk.{i}.attn_norm.weight", (self.n_embd,)
            yield f"blk.{i}.attn_q.weight", (self.n_embd, self.n_embd)
            yield f"blk.{i}.attn_k.weight", (n_kv, self.n_embd)
            yield f"blk.{i}.attn_v.weight", (n_kv, self.n_embd)
            yield f"blk.{i}.attn_output.weight", (self.n_embd, self.n_embd)
            yield f"blk.{i}.ffn_norm.weight", (self.n_embd,)
            yield f"blk.{i}.ffn_gate.weight", (self.n_ff, self.n_embd)
            yield f"blk.{i}.ffn_up.weight", (self.n_ff, self.n_embd)
            yield f"blk.{i}.ffn_down.weight", (self.n_embd, self.n_ff)
        yield "output_norm.weight", (self.n_embd,)
        if not self.tied:
            yield "output.weight", (self.n_vocab, self.n_embd)


SHAPES = {
    "llama-3.2-1b": Shape(16, 2048, 8192, 32, 8, 128256, tied=True),
    "llama-3.1-8b": Shape(32, 4096, 14336, 32, 8, 128256, tied=False),
    "llama-160m": Shape(12, 768, 3072, 12, 12, 32000, tied=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help=f"SHAPE:TYPE; shapes: {', '.join(SHAPES)}")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    shape_name, _, type_name = arguments.model.partition(":")
    write(arguments.out, shape_name, type_name or "Q4_K_M")


def write(path: Path, shape_name: str, type_name: str) -> None:
    """Write `path`. Raises KeyError for an unknown shape or type."""
    shape = SHAPES[shape_name]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"{shape_name} with random weights")
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_heads)
    writer.add_vocab_size(shape.n_vocab)
    tokens = ["<unk>", "<s>", "</s>", *BYTE_TOKENS]
    tokens += [f"t{i}" for i in range(len(tokens), shape.n_vocab)]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (shape.n_vocab - 259)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(shape.n_vocab)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(0)
    tensors = dict(shape.tensors())
    types = _types(tensors, shape, type_name)
    for name, dims in tensors.items():
        type = WEIGHT_TYPES[types[name]]
        if len(dims) == 1:
            writer.add_tensor(name, np.ones(dims, np.float32))
        else:
            raw_dtype = gguf.GGMLQuantizationType[type.name]
            writer.add_tensor(name, random_weights(random, type, *dims), raw_dtype=raw_dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_weights(
    random: np.random.Generator, type: WeightType, n_rows: int, n_columns: int
) -> npt.NDArray[np.uint8]:
    """Packed rows (n_rows, row_bytes)."""
    raw = random.integers(0, 256, (N_PATTERN, type.bytes), dtype=np.uint8)
    blocks = raw.view(type.dtype)[:, 0]
    fields = type.dtype.names or ()
    if fields == ("w",):
        weights = random.standard_normal((N_PATTERN, 1)).astype(np.float32) * 0.02
        raw = type.quantize(weights).reshape(N_PATTERN, -1)
    else:
        # Offsets are set so as to centre the weights, then all scales so as to spread them by 0.02.
        blocks["d"] = 1.0
        for field, centre in (("dmin", 7.5), ("m", -7.5)):
            if field in fields:
                blocks[field] = centre * (2 if "qh" in fields else 1)
        spread = 0.02 / type.dequantize(raw).std()
        for field in {"d", "dmin", "m"} & set(fields):
            blocks[field] = blocks[field].astype(np.float32) * spread
    n_bytes = n_rows * type.row_bytes(n_columns)
    return np.resize(raw.reshape(-1), n_bytes).reshape(n_rows, -1)


def _types(tensors: dict[str, tuple[int, ...]], shape: Shape, type_name: str) -> dict[str, str]:
    """What the quantiser would choose, by tensor name."""
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": shape.n_layers,
        "llama.attention.head_count": shape.n_heads,
        "llama.attention.head_count_kv": shape.n_kv_heads,
    }
    f32 = SimpleNamespace(name="F32")
    file = SimpleNamespace(
        metadata=metadata,
        get=lambda key, _, default=None: metadata.get(key, default),
        tensors={
            name: SimpleNamespace(name=name, type=f32, shape=dims, data=np.ones(1))
            for name, dims in tensors.items()
        },
    )
    return choose_types(cast(Any, file), MIXES[type_name])


if __name__ == "__main__":
    main()
