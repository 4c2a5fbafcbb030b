"""StableLM 2 (arXiv:2402.17834)."""

from __future__ import annotations

from collections.abc import Sequence

from linnet.models.attention import Attention
from linnet.models.blocks import Block, LayerNorm, Parallel, Residual
from linnet.models.transformer import Transformer
from linnet.models.weights import Weights


class StableLM(Transformer):
    """Layer norms; the 12B model computes attention and feed-forward network of the same input and
    normalises queries and keys."""

    norm = LayerNorm

    def layer(self, w: Weights, i: int) -> Sequence[Block]:
        if "ffn_norm.weight" in w:
            return super().layer(w, i)
        blocks = Parallel([self.attention(w, i), self.feed_forward(w, i)])
        return [Residual(blocks, self.norm.load(w, "attn_norm", self.config))]

    def attention(self, w: Weights, i: int) -> Block:
        norms = self.norms_of_heads(w) if "attn_q_norm.weight" in w else (None, None)
        return Attention.load(w, self.config, self.rope, qk_norm=norms)
