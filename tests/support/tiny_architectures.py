"""Small models of random weights, of every architecture: as tensors, or as files.

    TINY["gemma2"].write(tmp_path / "gemma2.gguf")

Names and shapes are written out as files have them; another engine loads the files, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from linnet.kernels.quants import WEIGHT_TYPES

Array = npt.NDArray[Any]
Shapes = dict[str, tuple[int, ...]]

N_VOCAB, N_EMBD, N_FF = 96, 64, 96
N_HEADS, N_KV_HEADS, HEAD_DIM = 4, 2, 16
N_Q, N_KV = N_HEADS * HEAD_DIM, N_KV_HEADS * HEAD_DIM
N_EXPERTS, N_USED, N_FF_EXPERT = 6, 3, 32
N_CTX = 64


@dataclass(frozen=True)
class NamedTensor:
    """As much of a tensor as models look at."""

    type: Any
    shape: tuple[int, ...]
    data: Array


@dataclass(frozen=True)
class TinyArchitecture:
    """`keys`: metadata without the architecture's name; `layer(i)`: the tensors of block i."""

    name: str
    layer: Callable[[int], Shapes]
    keys: Mapping[str, Any] = field(default_factory=dict)
    n_layers: int = 3
    more: Shapes = field(default_factory=dict)
    tied: bool = False
    last_norm: str = "output_norm"
    layer_norm: bool = False
    n_blocks: int = 0  # where the file says that it has more than layers

    def metadata(self) -> dict[str, Any]:
        epsilon = "layer_norm_epsilon" if self.layer_norm else "layer_norm_rms_epsilon"
        keys = {
            "block_count": self.n_blocks or self.n_layers,
            "context_length": N_CTX,
            "embedding_length": N_EMBD,
            "feed_forward_length": N_FF,
            "vocab_size": N_VOCAB,
            "attention.head_count": N_HEADS,
            "attention.head_count_kv": N_KV_HEADS,
            f"attention.{epsilon}": 1e-5,
            "rope.freq_base": 500.0,
            **self.keys,
        }
        return {"general.architecture": self.name} | {
            f"{self.name}.{key}": value for key, value in keys.items()
        }

    def shapes(self) -> Shapes:
        """Slowest dimension first."""
        shapes: Shapes = {"token_embd.weight": (N_VOCAB, N_EMBD)}
        shapes |= {f"{self.last_norm}.weight": (N_EMBD,)} | self.more
        if not self.tied:
            shapes["output.weight"] = (N_VOCAB, N_EMBD)
        for i in range(self.n_layers):
            shapes |= {f"blk.{i}.{name}": shape for name, shape in self.layer(i).items()}
        return shapes

    def weights(self) -> dict[str, npt.NDArray[np.float32]]:
        rng = np.random.default_rng(len(self.name))
        return {name: random_weights(name, shape, rng) for name, shape in self.shapes().items()}

    def tensors(self, matrices: str = "F32") -> dict[str, NamedTensor]:
        """`matrices`: the type of those whose rows are whole blocks of it."""
        tensors = {}
        for name, weight in self.weights().items():
            fits = weight.ndim > 1 and weight.shape[-1] % WEIGHT_TYPES[matrices].block == 0
            is_matrix = name.endswith(".weight") and "norm" not in name and "conv" not in name
            type = WEIGHT_TYPES[matrices if fits and is_matrix else "F32"]
            packed = type.quantize(weight.reshape(-1, weight.shape[-1]))
            tensors[name] = NamedTensor(type, weight.shape, packed.reshape(-1))
        return tensors

    def write(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(path, self.name)
        writer.add_string("tokenizer.ggml.model", "none")
        for key, value in self.metadata().items():
            add_value(writer, key, value)
        for name, weight in self.weights().items():
            writer.add_tensor(name, weight)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """As files have it: whole numbers as u32."""
    if key == "general.architecture":
        return
    if isinstance(value, np.ndarray):
        writer.add_array(key, value.tolist())
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def random_weights(
    name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Norms and factors near 1, biases near 0; a matrix takes numbers of size 1 to such.

    Keys are shorter, so that attention is not that of a single position.
    """
    if name.endswith("ssm_a"):
        weights = -rng.uniform(0.1, 1, shape)
    elif name.endswith("attn_k_norm.weight"):
        weights = rng.uniform(0.1, 0.4, shape)
    elif name.startswith("rope_") or ("_norm" in name and not name.endswith("bias")):
        weights = rng.uniform(0.5, 2, shape)
    elif name.endswith((".scale", "layer_output_scale.weight")):
        weights = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1 or name.endswith("bias"):
        weights = rng.standard_normal(shape) * 0.3
    else:
        weights = rng.standard_normal(shape) * (2 / np.sqrt(shape[-1]))
    return weights.astype(np.float32)


# ---- what layers are made of ---------------------------------------------------------------------


def vectors(**lengths: int) -> Shapes:
    """Norms' weights, `name=length`."""
    return {f"{name}.weight": (length,) for name, length in lengths.items()}


def matrices(**shapes: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": shape for name, shape in shapes.items()}


def biases(**lengths: int) -> Shapes:
    return {f"{name}.bias": (length,) for name, length in lengths.items()}


ATTENTION = matrices(
    attn_q=(N_Q, N_EMBD), attn_k=(N_KV, N_EMBD), attn_v=(N_KV, N_EMBD), attn_output=(N_EMBD, N_Q)
)
FUSED_ATTENTION = matrices(attn_qkv=(N_Q + 2 * N_KV, N_EMBD), attn_output=(N_EMBD, N_Q))
QKV_BIASES = biases(attn_q=N_Q, attn_k=N_KV, attn_v=N_KV)
FEED_FORWARD = matrices(ffn_gate=(N_FF, N_EMBD), ffn_up=(N_FF, N_EMBD), ffn_down=(N_EMBD, N_FF))
FUSED_FEED_FORWARD = matrices(ffn_up=(2 * N_FF, N_EMBD), ffn_down=(N_EMBD, N_FF))
NORMS = vectors(attn_norm=N_EMBD, ffn_norm=N_EMBD)
POST_NORMS = vectors(post_attention_norm=N_EMBD, post_ffw_norm=N_EMBD)
HEAD_NORMS = vectors(attn_q_norm=HEAD_DIM, attn_k_norm=HEAD_DIM)
NORM_BIASES = biases(attn_norm=N_EMBD, ffn_norm=N_EMBD)


def experts(n_ff: int = N_FF_EXPERT) -> Shapes:
    return matrices(
        ffn_gate_inp=(N_EXPERTS, N_EMBD),
        ffn_gate_exps=(N_EXPERTS, n_ff, N_EMBD),
        ffn_up_exps=(N_EXPERTS, n_ff, N_EMBD),
        ffn_down_exps=(N_EXPERTS, N_EMBD, n_ff),
    )


SHARED = matrices(
    ffn_gate_shexp=(N_FF, N_EMBD), ffn_up_shexp=(N_FF, N_EMBD), ffn_down_shexp=(N_EMBD, N_FF)
)
LLAMA = NORMS | ATTENTION | FEED_FORWARD
EXPERT_KEYS = {
    "expert_count": N_EXPERTS,
    "expert_used_count": N_USED,
    "expert_feed_forward_length": N_FF_EXPERT,
}
YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 8.0,
    "rope.scaling.original_context_length": 16,
}


def same(shapes: Shapes) -> Callable[[int], Shapes]:
    """The same tensors in every layer."""
    return lambda i: shapes


SHORT_CONVOLUTION = {
    "shortconv.in_proj.weight": (3 * N_EMBD, N_EMBD),
    "shortconv.conv.weight": (N_EMBD, 3),
    "shortconv.out_proj.weight": (N_EMBD, N_EMBD),
}


def lfm2_layer(i: int) -> Shapes:
    own = ATTENTION | HEAD_NORMS if i == 1 else SHORT_CONVOLUTION
    return NORMS | own | FEED_FORWARD


def lfm2moe_layer(i: int) -> Shapes:
    own = ATTENTION | HEAD_NORMS if i == 1 else SHORT_CONVOLUTION
    network = FEED_FORWARD if i == 0 else experts() | biases(exp_probs_b=N_EXPERTS)
    return NORMS | own | network


STATE_SIZE, N_STATES, N_STATE_KEYS = 16, 4, 2  # of a delta-net: head_dim, heads, heads of keys
N_STATE_K, N_STATE_V = STATE_SIZE * N_STATE_KEYS, STATE_SIZE * N_STATES
DELTA_NET = {
    "attn_qkv.weight": (2 * N_STATE_K + N_STATE_V, N_EMBD),
    "attn_gate.weight": (N_STATE_V, N_EMBD),
    "ssm_conv1d.weight": (2 * N_STATE_K + N_STATE_V, 4),
    "ssm_dt.bias": (N_STATES,),
    "ssm_a": (N_STATES,),
    "ssm_beta.weight": (N_STATES, N_EMBD),
    "ssm_alpha.weight": (N_STATES, N_EMBD),
    "ssm_norm.weight": (STATE_SIZE,),
    "ssm_out.weight": (N_EMBD, N_STATE_V),
}
DELTA_NET_KEYS = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": N_STATE_V,
    "ssm.state_size": STATE_SIZE,
    "ssm.time_step_rank": N_STATES,
    "ssm.group_count": N_STATE_KEYS,
    "rope.dimension_count": 8,
    "rope.dimension_sections": np.array([2, 1, 1, 0]),
    "attention.key_length": HEAD_DIM,
    "attention.value_length": HEAD_DIM,
}
GATED_ATTENTION = ATTENTION | HEAD_NORMS | matrices(attn_q=(2 * N_Q, N_EMBD))


GEMMA4_KEYS = {
    "attention.key_length": 32,
    "attention.value_length": 32,
    "attention.key_length_swa": 16,
    "attention.value_length_swa": 16,
    "attention.head_count_kv": np.array([2, 1, 2, 1, 2, 1]),
    "attention.sliding_window_pattern": np.array([1, 0, 1, 0, 1, 0]),
    "attention.sliding_window": 7,
    "attention.shared_kv_layers": 2,
    "embedding_length_per_layer_input": 8,
    "feed_forward_length": np.array([96, 96, 96, 96, 128, 128]),
    "rope.dimension_count": 32,
    "rope.dimension_count_swa": 16,
    "rope.freq_base_swa": 100.0,
    "final_logit_softcapping": 4.0,
}
GEMMA4_INPUTS = {
    "rope_freqs.weight": (16,),
    "per_layer_token_embd.weight": (N_VOCAB, 6 * 8),
    "per_layer_model_proj.weight": (6 * 8, N_EMBD),
    "per_layer_proj_norm.weight": (8,),
}


def gemma4_attention(i: int, *, with_keys: bool) -> Shapes:
    """Of heads of 32 and one of keys where a layer sees all, which has no values of its own."""
    head_dim, n_kv_heads = (16, 2) if i % 2 == 0 else (32, 1)
    n_q, n_kv = N_HEADS * head_dim, n_kv_heads * head_dim
    own = matrices(attn_q=(n_q, N_EMBD), attn_output=(N_EMBD, n_q)) | vectors(attn_q_norm=head_dim)
    if with_keys:
        own |= matrices(attn_k=(n_kv, N_EMBD)) | vectors(attn_k_norm=head_dim)
        own |= matrices(attn_v=(n_kv, N_EMBD)) if i % 2 == 0 else {}
    return own


def gemma4_layer(i: int) -> Shapes:
    n_ff = 96 if i < 4 else 128
    network = matrices(ffn_gate=(n_ff, N_EMBD), ffn_up=(n_ff, N_EMBD), ffn_down=(N_EMBD, n_ff))
    inputs = matrices(inp_gate=(8, N_EMBD), proj=(N_EMBD, 8)) | vectors(post_norm=N_EMBD)
    scale = vectors(layer_output_scale=1)
    own = gemma4_attention(i, with_keys=i < 4)
    return NORMS | POST_NORMS | own | network | inputs | scale


def gemma4moe_layer(i: int) -> Shapes:
    norms = vectors(pre_ffw_norm_2=N_EMBD, post_ffw_norm_1=N_EMBD, post_ffw_norm_2=N_EMBD)
    own = gemma4_attention(i, with_keys=True) | {"ffn_gate_inp.scale": (N_EMBD,)}
    fused = {"ffn_gate_up_exps.weight": (N_EXPERTS, 2 * N_FF_EXPERT, N_EMBD)}
    of_experts = {n: s for n, s in experts().items() if "gate_exps" not in n and "up_exps" not in n}
    scales = {"ffn_down_exps.scale": (N_EXPERTS,)}
    return NORMS | POST_NORMS | norms | own | FEED_FORWARD | of_experts | fused | scales


DEEPSEEK2_KEYS = {
    **EXPERT_KEYS,
    "leading_dense_block_count": 1,
    "expert_shared_count": 2,
    "attention.head_count_kv": 1,
    "attention.kv_lora_rank": 32,
    "attention.key_length": 32 + 8,
    "attention.value_length": 32,
    "attention.key_length_mla": 16 + 8,
    "attention.value_length_mla": 20,
    "rope.dimension_count": 8,
}


def deepseek2_layer(i: int, *, bottleneck: bool) -> Shapes:
    """Heads of 16 plain and 8 rotated columns, values of 20, a latent space of 32."""
    own = matrices(
        attn_kv_a_mqa=(32 + 8, N_EMBD),
        attn_k_b=(N_HEADS, 32, 16),
        attn_v_b=(N_HEADS, 20, 32),
        attn_output=(N_EMBD, N_HEADS * 20),
    ) | vectors(attn_kv_a_norm=32)
    if bottleneck:
        own |= matrices(attn_q_a=(24, N_EMBD), attn_q_b=(N_HEADS * 24, 24))
        own |= vectors(attn_q_a_norm=24)
    else:
        own |= matrices(attn_q=(N_HEADS * 24, N_EMBD))
    shared = {
        name: tuple(2 * N_FF_EXPERT if n == N_FF else n for n in shape)
        for name, shape in SHARED.items()
    }
    bias = biases(exp_probs_b=N_EXPERTS) if bottleneck else {}
    network = FEED_FORWARD if i == 0 else experts() | shared | bias
    return NORMS | own | network


def qwen35_layer(i: int) -> Shapes:
    own = GATED_ATTENTION if i == 3 else DELTA_NET
    return vectors(attn_norm=N_EMBD, post_attention_norm=N_EMBD) | own


def qwen35moe_layer(i: int) -> Shapes:
    gate = {"ffn_gate_inp_shexp.weight": (N_EMBD,)}
    return qwen35_layer(i) | experts() | SHARED | gate


def stablelm_12b_layer(i: int) -> Shapes:
    norms = matrices(attn_q_norm=(N_HEADS, HEAD_DIM), attn_k_norm=(N_KV_HEADS, HEAD_DIM))
    own = vectors(attn_norm=N_EMBD) | biases(attn_norm=N_EMBD)
    return own | norms | ATTENTION | FEED_FORWARD


GPT_OSS_BIASES = {
    "ffn_gate_inp.bias": (N_EXPERTS,),
    "ffn_gate_exps.bias": (N_EXPERTS, N_FF_EXPERT),
    "ffn_up_exps.bias": (N_EXPERTS, N_FF_EXPERT),
    "ffn_down_exps.bias": (N_EXPERTS, N_EMBD),
    "attn_sinks.weight": (N_HEADS,),
    **QKV_BIASES,
    **biases(attn_output=N_EMBD),
}
OLMO2 = POST_NORMS | vectors(attn_q_norm=N_Q, attn_k_norm=N_KV) | ATTENTION | FEED_FORWARD
GRANITE_KEYS = {
    "logit_scale": 4.0,
    "residual_scale": 0.4,
    "embedding_scale": 6.0,
    "attention.scale": 0.3,
}
STARCODER2 = (
    NORMS | NORM_BIASES | ATTENTION | QKV_BIASES | biases(attn_output=N_EMBD)
    | matrices(ffn_up=(N_FF, N_EMBD), ffn_down=(N_EMBD, N_FF))
    | biases(ffn_up=N_FF, ffn_down=N_EMBD)
)  # fmt: skip
OUTPUT_BIAS = {"output_norm.bias": (N_EMBD,)}
WINDOW = {"attention.sliding_window": 7}

TINY = {
    "cohere2": TinyArchitecture(
        "cohere2", same(vectors(attn_norm=N_EMBD) | ATTENTION | FEED_FORWARD), n_layers=4,
        keys={"logit_scale": 0.5, **WINDOW}, tied=True, layer_norm=True,
    ),
    "command-r": TinyArchitecture(
        "command-r", same(vectors(attn_norm=N_EMBD) | ATTENTION | FEED_FORWARD),
        keys={"logit_scale": 0.5}, tied=True, layer_norm=True,
    ),
    "deepseek2": TinyArchitecture(
        "deepseek2", lambda i: deepseek2_layer(i, bottleneck=True),
        keys={
            **DEEPSEEK2_KEYS, **YARN, "attention.q_lora_rank": 24,
            "rope.scaling.yarn_log_multiplier": 0.0707, "expert_gating_func": 2,
            "expert_weights_norm": True, "expert_weights_scale": 2.5,
        },
    ),
    "deepseek2 lite": TinyArchitecture(
        "deepseek2", lambda i: deepseek2_layer(i, bottleneck=False), n_layers=26,
        keys=DEEPSEEK2_KEYS,
    ),
    "ernie4_5": TinyArchitecture("ernie4_5", same(LLAMA), tied=True),
    "exaone4": TinyArchitecture(
        "exaone4", same(POST_NORMS | HEAD_NORMS | ATTENTION | FEED_FORWARD)
    ),
    "exaone4-32b": TinyArchitecture(
        "exaone4", same(POST_NORMS | HEAD_NORMS | ATTENTION | FEED_FORWARD), n_layers=64,
        keys=WINDOW,
    ),
    "gemma2": TinyArchitecture(
        "gemma2", same(NORMS | POST_NORMS | ATTENTION | FEED_FORWARD), tied=True,
        keys={"attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0, **WINDOW},
    ),
    "gemma3": TinyArchitecture(
        "gemma3", same(NORMS | POST_NORMS | HEAD_NORMS | ATTENTION | FEED_FORWARD), tied=True,
        n_layers=7, keys={"rope.scaling.factor": 8.0, "rope.scaling.type": "linear", **WINDOW},
    ),
    "gemma4": TinyArchitecture(
        "gemma4", gemma4_layer, n_layers=6, more=GEMMA4_INPUTS, tied=True, keys=GEMMA4_KEYS
    ),
    "gemma4 with experts": TinyArchitecture(
        "gemma4", gemma4moe_layer, n_layers=2, tied=True, more={"rope_freqs.weight": (16,)},
        keys={
            **GEMMA4_KEYS, **EXPERT_KEYS, "attention.shared_kv_layers": 0,
            "attention.sliding_window_pattern": np.array([1, 0]), "feed_forward_length": N_FF,
            "attention.head_count_kv": np.array([2, 1]), "embedding_length_per_layer_input": 0,
        },
    ),
    "glm4": TinyArchitecture(
        "glm4", same(NORMS | POST_NORMS | ATTENTION | QKV_BIASES | FUSED_FEED_FORWARD),
        keys={"rope.dimension_count": 8},
    ),
    "gpt-oss": TinyArchitecture(
        "gpt-oss",
        same(
            vectors(attn_norm=N_EMBD, post_attention_norm=N_EMBD) | ATTENTION | experts()
            | GPT_OSS_BIASES
        ),
        keys={**EXPERT_KEYS, **YARN, **WINDOW},
    ),
    "granite": TinyArchitecture("granite", same(LLAMA), keys=GRANITE_KEYS),
    "granite without positions": TinyArchitecture(
        "granite", same(LLAMA), keys={**GRANITE_KEYS, "rope.scaling.finetuned": False}
    ),
    "granitemoe": TinyArchitecture(
        "granitemoe", same(NORMS | ATTENTION | experts() | SHARED),
        keys={
            **GRANITE_KEYS, "expert_count": N_EXPERTS, "expert_used_count": N_USED,
            "expert_shared_feed_forward_length": N_FF, "feed_forward_length": N_FF_EXPERT,
        },
    ),
    "hunyuan-dense": TinyArchitecture(
        "hunyuan-dense", same(LLAMA | HEAD_NORMS), keys={"rope.scaling.alpha": 100.0}
    ),
    "lfm2": TinyArchitecture(
        "lfm2", lfm2_layer, last_norm="token_embd_norm", tied=True,
        keys={"shortconv.l_cache": 3, "attention.head_count_kv": np.array([0, N_KV_HEADS, 0])},
    ),
    "lfm2moe": TinyArchitecture(
        "lfm2moe", lfm2moe_layer, last_norm="token_embd_norm", tied=True,
        keys={
            "shortconv.l_cache": 3, "attention.head_count_kv": np.array([0, N_KV_HEADS, 0]),
            "leading_dense_block_count": 1, "expert_gating_func": 2, **EXPERT_KEYS,
        },
    ),
    "llama": TinyArchitecture(
        "llama", same(LLAMA | QKV_BIASES), more={"rope_freqs.weight": (HEAD_DIM // 2,)}
    ),
    "llama with experts": TinyArchitecture(
        "llama", same(NORMS | ATTENTION | experts(N_FF)),
        keys={"expert_count": N_EXPERTS, "expert_used_count": 2},
    ),
    "llama with yarn": TinyArchitecture("llama", same(LLAMA), keys=YARN),
    "mistral3": TinyArchitecture(
        "mistral3", same(LLAMA),
        keys={
            **YARN, "attention.temperature_scale": 0.3, "rope.scaling.yarn_log_multiplier": 1.0,
            "rope.scaling.yarn_beta_fast": 4.0, "rope.scaling.yarn_beta_slow": 0.5,
        },
    ),
    "olmo2": TinyArchitecture("olmo2", same(OLMO2)),
    "olmo2 with windows": TinyArchitecture(
        "olmo2", same(OLMO2), n_layers=4, keys={**WINDOW, **YARN}
    ),
    "phi3": TinyArchitecture(
        "phi3", same(NORMS | FUSED_ATTENTION | FUSED_FEED_FORWARD),
        keys={
            "rope.dimension_count": 8, "rope.scaling.attn_factor": 1.2,
            "rope.scaling.original_context_length": 16,
        },
        more={"rope_factors_long.weight": (4,), "rope_factors_short.weight": (4,)},
    ),
    "phi3 with short contexts": TinyArchitecture(
        "phi3", same(NORMS | FUSED_ATTENTION | FUSED_FEED_FORWARD),
        keys={
            "rope.dimension_count": 8, "rope.scaling.attn_factor": 1.2,
            "rope.scaling.original_context_length": 4096,
        },
        more={"rope_factors_long.weight": (4,), "rope_factors_short.weight": (4,)},
    ),
    "qwen2": TinyArchitecture("qwen2", same(LLAMA | QKV_BIASES), tied=True),
    "qwen3": TinyArchitecture("qwen3", same(LLAMA | HEAD_NORMS)),
    "qwen35": TinyArchitecture(
        "qwen35", lambda i: qwen35_layer(i) | FEED_FORWARD, n_layers=4, keys=DELTA_NET_KEYS
    ),
    "qwen35moe": TinyArchitecture(
        "qwen35moe", qwen35moe_layer, n_layers=4,
        keys={
            **DELTA_NET_KEYS, **EXPERT_KEYS, "expert_shared_feed_forward_length": N_FF,
        },
    ),
    "qwen3moe": TinyArchitecture(
        "qwen3moe", same(NORMS | HEAD_NORMS | ATTENTION | experts()), keys=EXPERT_KEYS
    ),
    "seed_oss": TinyArchitecture(
        "seed_oss",
        same(
            vectors(attn_norm=N_EMBD, post_attention_norm=N_EMBD) | ATTENTION | QKV_BIASES
            | FEED_FORWARD
        ),
    ),
    "smollm3": TinyArchitecture("smollm3", same(LLAMA), n_layers=4, tied=True),
    "stablelm": TinyArchitecture(
        "stablelm", same(LLAMA | NORM_BIASES | QKV_BIASES), more=OUTPUT_BIAS, layer_norm=True,
        keys={"rope.dimension_count": 4},
    ),
    "stablelm of 12B": TinyArchitecture(
        "stablelm", stablelm_12b_layer, more=OUTPUT_BIAS, layer_norm=True,
        keys={"rope.dimension_count": 4},
    ),
    "starcoder2": TinyArchitecture(
        "starcoder2", same(STARCODER2), more=OUTPUT_BIAS, layer_norm=True, tied=True
    ),
}  # fmt: skip
