"""What a file says and a model made of it did not ask for: an error, unless it cannot matter."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from linnet.models.parts.config import MAX_LAYERS, Config, Keys
from linnet.models.parts.errors import ModelError
from linnet.models.parts.weights import Weights

SHOWN: Final = 3  # of what is named in a message

# Keys that say nothing where they are not asked for: sizes of tensors and which layers have them,
# which the tensors themselves say; the constants of the other kinds of norms and scalings; what is
# for images, training or encoders. A name that ends in a dot stands for all that begin with it.
WITHOUT_EFFECT: Final = (
    "attention.gate_lora_rank", "attention.group_norm_epsilon", "attention.group_norm_groups",
    "attention.indexer.", "attention.key_length_mla", "attention.key_length_mla_swa",
    "attention.key_length_swa", "attention.kv_lora_rank", "attention.kv_lora_rank_swa",
    "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.q_lora_rank",
    "attention.recurrent_layers", "attention.sliding_window_pattern",
    "attention.temperature_length", "attention.value_length_mla", "attention.value_length_mla_swa",
    "attention.value_length_swa", "classifier.output_labels", "classifier.pooling_type",
    "convnext.", "decoder_block_count", "decoder_start_token_id", "deepstack_mapping",
    "dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out",
    "embedding_length_per_layer_input", "expert_chunk_feed_forward_length",
    "expert_feed_forward_length", "expert_group_used_count", "expert_latent_length",
    "expert_shared_count", "expert_shared_feed_forward_length", "expert_used_count",
    "expert_weights_norm", "experts_per_group", "full_attention_interval",
    "hyper_connection.", "interleave_moe_layer_step", "kda.", "leading_dense_block_count",
    "moe_every_n_layers", "moe_latent_size", "n_deepstack_layers", "posnet.",
    "rope.dimension_sections", "rope.scaling.finetuned", "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_log_multiplier", "shortconv.", "ssm.",
    "tensor_data_layout", "token_shift_count", "use_parallel_residual", "wkv.",
)  # fmt: skip
# Keys that say nothing at these values beside 0: factors at 1, and what llama.cpp writes into files
# of all architectures, though few of them read it.
HARMLESS: Final[Mapping[str, Sequence[float]]] = MappingProxyType({
    "activation.situ_beta": (1,), "activation.situ_linear_beta": (1,),
    "attention.output_scale": (1,), "attention.rope_pattern": (1,), "attention.value_scale": (1,),
    "attn_logit_softcapping": (50,), "embedding_scale": (1,),
    "expert_gating_func": (1, 3),  # softmax, of all scores or of the chosen: the same, normalised
    "expert_group_count": (1,), "expert_group_scale": (0.05,), "expert_weights_scale": (1,),
    "final_logit_softcapping": (30,), "logit_scale": (1,), "residual_scale": (1,),
    "rope.scaling.alpha": (1,), "rope.scaling.yarn_attn_factor": (1,),
    "router_logit_softcapping": (30,),
})  # fmt: skip


def check_unused(keys: Keys, w: Weights, config: Config, *, ignore: bool) -> None:
    """Look at what no part of the model has asked for; call it once all of it is made.

    Raises ModelError naming the architecture's keys and the tensors that may change what the model
    computes; with `ignore` they are a warning. What cannot matter passes:

    - a key that is 0, false or empty, by which llama.cpp's keys mean "none"; one of WITHOUT_EFFECT;
      one at a value of HARMLESS, or at which it says what holds anyway (see `_implied`);
    - a tensor's `.scale` of ones and `.bias` of zeros; `.input_scale`, which is for activations
      quantised once for all; `cls.`, with which rankers score; blocks that predict further tokens.

    Other scales, and what the architecture leaves out by `Weights.leave_out`, are loaded by
    llama.cpp and not used by it; nor are they here, with a warning.
    """
    found = [
        f"{keys.architecture}.{key} ({str(value)[:40]})"
        for key, value in keys.unasked()
        if not _is_harmless(key, value, config)
    ]
    unasked = w.unasked()
    left_out: list[str] = []
    n_blocks = keys.integer("block_count", 1, MAX_LAYERS)
    further = tuple(f"blk.{i}." for i in range(config.n_layers, n_blocks))
    for name in unasked:
        stem, _, role = name.rpartition(".")
        if role == "input_scale" or name.startswith(("cls.", *further)):
            continue
        beside = f"{stem}.weight" in w and f"{stem}.weight" not in unasked
        if beside and w.is_all(name, {"scale": 1.0, "bias": 0.0}.get(role)):
            continue
        (left_out if name in w.left_out or (beside and role == "scale") else found).append(name)
    if left_out:
        warnings.warn(f"llama.cpp does not use {_listed(left_out)}; nor does linnet", stacklevel=2)
    if not found:
        return
    message = f"{keys.architecture} here has no use for {_listed(found)}, which may change results"
    if not ignore:
        remedy = "--ignore-unknown (ignore_unknown=True) does without"
        raise ModelError(f"{message}: a newer model, or a spoiled file; {remedy}")
    warnings.warn(f"{message}; ignored", stacklevel=2)


def _implied(config: Config) -> Mapping[str, Sequence[float]]:
    """Values at which keys say what holds without them."""
    return {
        "attention.scale": (1 / math.sqrt(config.head_dim),),
        "embedding_length_out": (config.n_embd,),
        "rope.dimension_count_swa": (config.n_rot,),
        "rope.freq_base_swa": (config.rope_theta,),
    }


def _is_harmless(key: str, value: object, config: Config) -> bool:
    if any(key.startswith(name) if name[-1] == "." else key == name for name in WITHOUT_EFFECT):
        return True
    if not isinstance(value, int | float | np.ndarray):
        return not value
    if key == "attention.sliding_window" and isinstance(value, int):
        return not 0 < value < config.n_ctx_train
    harmless = (0, *HARMLESS.get(key, ()), *_implied(config).get(key, ()))
    numbers = np.asarray(value, np.float64)[..., np.newaxis]
    return bool(np.isclose(numbers, harmless, rtol=1e-6, atol=0).any(axis=-1).all())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
