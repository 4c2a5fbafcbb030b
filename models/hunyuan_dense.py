"""Hunyuan, dense (Tencent)."""

from __future__ import annotations

from dataclasses import replace

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block
from linnet.models.parts.rotary import RotaryEmbedding
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class HunyuanDense(Transformer):
    """Norms of queries and keys come after the rotation, whose base grows for long contexts."""

    def attention(self, w: Weights, i: int) -> Block:
        return Attention.load(w, self.config, self.rope, self.head_norms(w))

    def main_rope(self, w: Weights) -> RotaryEmbedding:
        """With a base that grows by alpha^(d / (d - 2)) for heads of d numbers."""
        c = self.config
        if c.head_dim <= 2:
            raise self.keys.error("attention.key_length", c.head_dim, "more than 2")
        alpha = self.keys.factor("rope.scaling.alpha")
        theta = c.rope_theta * alpha ** (c.head_dim / (c.head_dim - 2))
        return RotaryEmbedding.load(self.keys, w, replace(c, rope_theta=theta), adjacent=False)
