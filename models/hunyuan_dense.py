"""Hunyuan, dense (Tencent)."""

from __future__ import annotations

from dataclasses import replace

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block
from linnet.models.parts.rope import Rope
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class HunyuanDense(Transformer):
    """Queries and keys are normalised after they are turned; slower, for long contexts."""

    def attention(self, w: Weights, i: int) -> Block:
        norms = self.head_norms(w)
        return replace(Attention.load(w, self.config, self.rope, qk_norm=norms), norms_last=True)

    def main_rope(self, w: Weights) -> Rope:
        """With a base that grows by alpha^(d / (d - 2)) for heads of d numbers."""
        c = self.config
        if c.head_dim <= 2:
            raise self.keys.error("attention.key_length", c.head_dim, "more than 2")
        alpha = self.keys.factor("rope.scaling.alpha")
        theta = c.rope_theta * alpha ** (c.head_dim / (c.head_dim - 2))
        return Rope.load(self.keys, w, replace(c, rope_theta=theta), adjacent=self.adjacent)
