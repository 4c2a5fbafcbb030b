"""DeepSeek V2 and V3 (arXiv:2405.04434, 2412.19437)."""

from __future__ import annotations

import math
from dataclasses import replace

from linnet.models.parts.blocks import Block, FeedForward, RmsNorm
from linnet.models.parts.config import MAX_HEAD_DIM, MAX_LAYERS, MAX_WIDTH
from linnet.models.parts.experts import Experts, gating, with_shared
from linnet.models.parts.latent_attention import LatentAttention
from linnet.models.parts.rotary import RotaryEmbedding, attention_factor, scaling_factor
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class DeepSeek2(Transformer):
    """Latent attention; in all but the first layers experts, and a network that all tokens take."""

    adjacent = True
    latent = True

    def read_keys(self) -> None:
        keys = self.keys
        groups = keys.integer("expert_group_count", 0, MAX_WIDTH, default=0)
        if groups > 1:
            raise keys.error("expert_group_count", groups, "at most 1: groups are not known here")
        self.n_dense = keys.integer("leading_dense_block_count", 0, MAX_LAYERS, default=0)
        self.n_latent = keys.integer("attention.kv_lora_rank", 1, MAX_HEAD_DIM)
        self.n_bottleneck = keys.integer("attention.q_lora_rank", 0, MAX_WIDTH, default=0)
        self.n_rot = self.config.n_rot
        self.head_dim = keys.integer("attention.key_length_mla", self.n_rot + 1, MAX_HEAD_DIM)
        self.n_values = keys.integer("attention.value_length_mla", 1, MAX_HEAD_DIM)
        # Files hold a tenth of what YaRN's factor for scores multiplies.
        multiplier = keys.number("rope.scaling.yarn_log_multiplier", 0.0, 1e3, default=0.0) / 0.1
        factor = scaling_factor(keys)
        magnitude = keys.number("rope.scaling.attn_factor", 0.0, 1e6, default=1.0)
        self.magnitude = magnitude if multiplier else magnitude * attention_factor(factor)
        scale = self.magnitude * attention_factor(factor, multiplier)
        self.scale = scale**2 / math.sqrt(self.head_dim)

    def main_rope(self, w: Weights) -> RotaryEmbedding:
        return replace(super().main_rope(w), magnitude=self.magnitude)

    def attention(self, w: Weights, i: int) -> Block:
        c, n_heads, n_latent = self.config, self.config.n_heads, self.n_latent
        n_q, n_plain = n_heads * self.head_dim, self.head_dim - self.n_rot
        bottleneck = "attn_q_a.weight" in w
        return LatentAttention(
            q_down=w.matrix("attn_q_a", self.n_bottleneck, c.n_embd) if bottleneck else None,
            q_norm=RmsNorm.load(w, "attn_q_a_norm", c, self.n_bottleneck) if bottleneck else None,
            q=w.matrix("attn_q_b", n_q, self.n_bottleneck)
            if bottleneck
            else w.matrix("attn_q", n_q, c.n_embd),
            kv=w.matrix("attn_kv_a_mqa", n_latent + self.n_rot, c.n_embd),
            kv_norm=RmsNorm.load(w, "attn_kv_a_norm", c, n_latent),
            k_b=w.matrix("attn_k_b", n_heads, n_latent, n_plain, scaled=False),
            v_b=w.matrix("attn_v_b", n_heads, self.n_values, n_latent, scaled=False),
            output=w.matrix("attn_output", c.n_embd, n_heads * self.n_values),
            rope=self.rope,
            scale=self.scale,
        )

    def feed_forward(self, w: Weights, i: int) -> Block:
        c, keys = self.config, self.keys
        if i < self.n_dense:
            return FeedForward.load(w, c)
        n_ff = keys.integer("expert_feed_forward_length", 1, MAX_WIDTH)
        n_shared = keys.integer("expert_shared_count", 1, MAX_WIDTH)
        normalised = keys.flag("expert_weights_norm", default=False)
        experts = Experts.load(w, c, keys, gating=gating(keys, normalised=normalised))
        return with_shared(w, c, keys, experts, n_ff=n_shared * n_ff)
