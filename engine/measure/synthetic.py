"""Models of real shapes with random packed weights, to measure speed with: no file, no download.

What they say is noise; how fast they say it is as with the real model. Names, shapes and types of
tensors are those of files that llama.cpp writes and quantises. Weights have a standard deviation
of 0.02, so that activations stay finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from linnet.engine.gguf.reader import Tensor
from linnet.engine.gguf.types import GGML_TYPES
from linnet.engine.machine import available_memory, check_memory
from linnet.engine.quantize.recipes import RECIPES, choose_types
from linnet.kernels.quants import WEIGHT_TYPES, QuantType, WeightType
from linnet.models import architecture
from linnet.models.parts.weights import Floats, Weights

N_PATTERN: Final = 4096  # blocks of random weights, repeated through a tensor
Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a model, as its `config.json` has them.

    `more`: keys that its architecture alone has. `optional`: which tensors its file has of those
    that not every file of the architecture has, without the number of the layer.
    """

    architecture: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int
    n_ctx: int
    rope_theta: float
    norm_eps: float = 1e-5
    more: Mapping[str, int | float | str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()

    def metadata(self) -> dict[str, int | float | str]:
        keys = {
            "context_length": self.n_ctx,
            "embedding_length": self.n_embd,
            "block_count": self.n_layers,
            "feed_forward_length": self.n_ff,
            "attention.head_count": self.n_heads,
            "attention.head_count_kv": self.n_kv_heads,
            "attention.key_length": self.head_dim,
            "attention.value_length": self.head_dim,
            "attention.layer_norm_rms_epsilon": self.norm_eps,
            "rope.dimension_count": self.head_dim,
            "rope.freq_base": self.rope_theta,
            "vocab_size": self.n_vocab,
            **self.more,
        }
        prefixed = {f"{self.architecture}.{key}": value for key, value in keys.items()}
        return {"general.architecture": self.architecture, **prefixed}

    def tensors(self) -> dict[str, Dims]:
        """Shapes by name, slowest first: those that the architecture asks a file for."""
        asked = AskedWeights(self)
        architecture(self.architecture)(self.metadata(), asked)
        return asked.shapes


class AskedWeights(Weights):
    """The weights of a model that has none: `shapes` holds what an architecture has asked for."""

    def __init__(self, shape: Shape) -> None:
        super().__init__({})
        self._shape, self.shapes = shape, dict[str, Dims]()

    def __contains__(self, name: str) -> bool:
        return name in self._shape.optional

    def n_rows(self, name: str) -> int:
        return self._shape.n_vocab

    def vector(self, name: str, *shape: int) -> Floats:
        self.shapes[self._prefix + name] = shape
        return np.ones(shape, np.float32)

    def _packed(self, name: str, *shape: int) -> tuple[WeightType, npt.NDArray[np.uint8]]:
        self.shapes[self._prefix + name] = shape
        type = WEIGHT_TYPES["F32"]
        nothing = np.zeros((), np.uint8)
        return type, np.broadcast_to(nothing, (*shape[:-1], type.row_bytes(shape[-1])))


OUTPUT: Final = "output.weight"
QKV_BIASES: Final = ("attn_q.bias", "attn_k.bias", "attn_v.bias")
SHAPES: Final = MappingProxyType(
    {
        "llama-3.2-1b": Shape(
            architecture="llama", n_layers=16, n_embd=2048, n_ff=8192, n_heads=32, n_kv_heads=8,
            head_dim=64, n_vocab=128256, n_ctx=131072, rope_theta=500000.0,
        ),
        "llama-3.1-8b": Shape(
            architecture="llama", n_layers=32, n_embd=4096, n_ff=14336, n_heads=32, n_kv_heads=8,
            head_dim=128, n_vocab=128256, n_ctx=131072, rope_theta=500000.0,
            optional=(OUTPUT,),
        ),
        "llama-160m": Shape(
            architecture="llama", n_layers=12, n_embd=768, n_ff=3072, n_heads=12, n_kv_heads=12,
            head_dim=64, n_vocab=32000, n_ctx=2048, rope_theta=10000.0, optional=(OUTPUT,),
        ),
        "qwen2.5-0.5b": Shape(
            architecture="qwen2", n_layers=24, n_embd=896, n_ff=4864, n_heads=14, n_kv_heads=2,
            head_dim=64, n_vocab=151936, n_ctx=32768, rope_theta=1000000.0,
            norm_eps=1e-6, optional=QKV_BIASES,
        ),
        "qwen3-0.6b": Shape(
            architecture="qwen3", n_layers=28, n_embd=1024, n_ff=3072, n_heads=16, n_kv_heads=8,
            head_dim=128, n_vocab=151936, n_ctx=40960, rope_theta=1000000.0,
            norm_eps=1e-6,
        ),
        "gemma-3-1b": Shape(
            architecture="gemma3", n_layers=26, n_embd=1152, n_ff=6912, n_heads=4, n_kv_heads=1,
            head_dim=256, n_vocab=262144, n_ctx=32768, rope_theta=1000000.0,
            norm_eps=1e-6, more={"attention.sliding_window": 512},
        ),
        "phi-3.5-mini": Shape(
            architecture="phi3", n_layers=32, n_embd=3072, n_ff=8192, n_heads=32, n_kv_heads=32,
            head_dim=96, n_vocab=32064, n_ctx=131072, rope_theta=10000.0,
            more={
                "attention.sliding_window": 262144,
                "rope.scaling.original_context_length": 4096,
                "rope.scaling.attn_factor": 1.1902380714238083,
            },
            optional=(
                OUTPUT, "attn_qkv.weight", "rope_factors_long.weight", "rope_factors_short.weight",
            ),
        ),
        "qwen3-30b-a3b": Shape(
            architecture="qwen3moe", n_layers=48, n_embd=2048, n_ff=6144, n_heads=32, n_kv_heads=4,
            head_dim=128, n_vocab=151936, n_ctx=40960, rope_theta=1000000.0, norm_eps=1e-6,
            more={
                "expert_count": 128, "expert_used_count": 8, "expert_feed_forward_length": 768,
            },
            optional=(OUTPUT,),
        ),
        "gpt-oss-20b": Shape(
            architecture="gpt-oss", n_layers=24, n_embd=2880, n_ff=2880, n_heads=64, n_kv_heads=8,
            head_dim=64, n_vocab=201088, n_ctx=131072, rope_theta=150000.0,
            more={
                "attention.sliding_window": 128, "rope.scaling.type": "yarn",
                "rope.scaling.factor": 32.0, "rope.scaling.original_context_length": 4096,
                "expert_count": 32, "expert_used_count": 4, "expert_feed_forward_length": 2880,
            },
            optional=(
                OUTPUT, *QKV_BIASES, "attn_output.bias", "attn_sinks.weight", "ffn_gate_inp.bias",
                "ffn_gate_exps.bias", "ffn_up_exps.bias", "ffn_down_exps.bias",
            ),
        ),
        "granite-1b-a400m": Shape(
            architecture="granitemoe", n_layers=24, n_embd=1024, n_ff=512, n_heads=16, n_kv_heads=8,
            head_dim=64, n_vocab=49155, n_ctx=4096, rope_theta=10000.0, norm_eps=1e-6,
            more={
                "expert_count": 32, "expert_used_count": 8, "attention.scale": 0.015625,
                "embedding_scale": 12.0, "residual_scale": 0.22, "logit_scale": 6.0,
            },
            optional=("ffn_gate_inp.weight",),
        ),
    }
)  # fmt: skip


class SyntheticModel:
    """What a file would hold: `metadata` and `tensors`, as `models.load_model` takes them."""

    def __init__(self, name: str, shape: Shape, type_name: str, *, seed: int = 0) -> None:
        """`type_name`: a key of RECIPES, or another weight type, for all matrices. Raises
        ValueError for an unknown one."""
        if type_name not in (*RECIPES, *WEIGHT_TYPES):
            known = ", ".join(dict.fromkeys([*RECIPES, *WEIGHT_TYPES]))
            raise ValueError(f"type {type_name!r} is unknown; it must be one of {known}")
        recipe = RECIPES.get(type_name, RECIPES["Q8_0"])
        self.name = f"{name}:{type_name}"
        self.metadata: dict[str, int | float | str] = {
            **shape.metadata(),
            "general.name": f"{name} with random weights",
            "general.file_type": recipe.file_type,
        }
        random = np.random.default_rng(seed)
        shapes = shape.tensors()
        self.tensors = {name: _tensor(name, "F32", dims) for name, dims in shapes.items()}
        types = choose_types(cast(Any, self), recipe)
        if type_name not in RECIPES:
            types = {name: type_name if type == "Q8_0" else type for name, type in types.items()}
        n_bytes = sum(
            math.prod(dims[:-1]) * WEIGHT_TYPES[types[name]].row_bytes(dims[-1])
            for name, dims in shapes.items()
        )
        remedy = "a smaller shape or type needs less"
        check_memory(n_bytes, available_memory(), self.name, remedy)
        self.tensors = {
            name: _tensor(name, types[name], dims, _weights(random, name, types[name], dims))
            for name, dims in shapes.items()
        }

    def get(self, key: str, expected: type[Any], default: Any = None) -> Any:
        """A metadata value, as `GGUFFile.get` finds it."""
        return self.metadata.get(key, default)


def synthetic_model(
    name: str, *, n_vocab: int | None = None, n_layers: int | None = None
) -> SyntheticModel:
    """`name`: SHAPE:TYPE, as llama-3.2-1b:Q4_K_M; the type is Q4_K_M where none is said.

    `n_vocab`, `n_layers`: instead of the shape's own. Raises ValueError for a name that is unknown.
    """
    shape_name, _, type_name = name.partition(":")
    if shape_name not in SHAPES:
        known = ", ".join(SHAPES)
        raise ValueError(f"model shape {shape_name!r} is unknown; it must be one of {known}")
    shape = SHAPES[shape_name]
    shape = replace(shape, n_vocab=n_vocab or shape.n_vocab, n_layers=n_layers or shape.n_layers)
    return SyntheticModel(shape_name, shape, type_name.upper() or "Q4_K_M")


def random_weights(
    random: np.random.Generator, type: WeightType, n_rows: int, n_columns: int
) -> npt.NDArray[np.uint8]:
    """Packed rows (n_rows, row_bytes) of weights around 0 with a standard deviation of 0.02."""
    raw = random.integers(0, 256, (N_PATTERN, type.bytes), dtype=np.uint8)
    blocks = raw.view(type.dtype)[:, 0]
    fields = type.dtype.names or ()
    if fields == ("w",):
        weights = random.standard_normal((N_PATTERN, 1)).astype(np.float32) * 0.02
        raw = type.quantize(weights).reshape(N_PATTERN, -1)
    else:
        # Offsets are set so as to centre the weights, then all scales so as to spread them by 0.02.
        middle = type.largest / 2 if isinstance(type, QuantType) else 0
        for name, number in (("d", 1.0), ("e", 128), ("dmin", middle), ("m", -middle)):
            if name in fields:
                blocks[name] = number
        spread = 0.02 / type.dequantize(raw).std()
        if "e" in fields:  # two powers of two, mixed so that the variance is right
            below = int(np.floor(np.log2(spread)))
            share = ((spread / 2.0**below) ** 2 - 1) / 3
            blocks["e"] = 128 + below + (random.random(N_PATTERN) < share)
        for name in {"d", "dmin", "m"} & set(fields):
            numbers = blocks[name].astype(np.float32) * spread
            if blocks[name].dtype.kind == "u":  # of NVFP4, a few of its smallest steps
                numbers += random.random(numbers.shape)
            blocks[name] = numbers
    n_bytes = n_rows * type.row_bytes(n_columns)
    return np.resize(raw.reshape(-1), n_bytes).reshape(n_rows, -1)


def _weights(
    random: np.random.Generator, name: str, type_name: str, dims: Dims
) -> npt.NDArray[np.uint8]:
    """The bytes of a tensor: random matrices, norms and factors of 1, biases of 0."""
    if len(dims) == 1 or name.endswith(".bias"):
        value = 0.0 if name.endswith(".bias") else 1.0
        return np.full(math.prod(dims), value, np.float32).view(np.uint8)
    n_rows = math.prod(dims[:-1])
    return random_weights(random, WEIGHT_TYPES[type_name], n_rows, dims[-1]).reshape(-1)


def _tensor(
    name: str, type_name: str, dims: Dims, data: npt.NDArray[np.uint8] | None = None
) -> Tensor:
    """Without data, a tensor of which only name, type and shape are asked."""
    type = GGML_TYPES[WEIGHT_TYPES[type_name].id]
    return Tensor(name, type, dims, np.zeros(1, np.uint8) if data is None else data)
