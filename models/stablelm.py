"""StableLM 2 (arXiv:2402.17834)."""

from __future__ import annotations

from collections.abc import Sequence

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block, LayerNorm, Parallel
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class StableLM(Transformer):
    """Layer norms; where a layer has only one, as in the 12B model, attention and feed-forward
    network take the same input. Heads of queries and keys may have norms, each its own weights."""

    norm = LayerNorm

    def layer(self, w: Weights, i: int) -> Sequence[Block]:
        if "ffn_norm.weight" in w:
            return super().layer(w, i)
        blocks = Parallel([self.attention(w, i), self.feed_forward(w, i)])
        return [self.residual(w, blocks, self.attn_norm, self.attn_post_norm)]

    def attention(self, w: Weights, i: int) -> Block:
        c, q_norm, k_norm = self.config, None, None
        if "attn_q_norm.weight" in w:
            q_norm = self.norm.load(w, "attn_q_norm", c, c.n_heads, c.head_dim)
            k_norm = self.norm.load(w, "attn_k_norm", c, c.n_kv_heads, c.head_dim)
        return Attention.load(w, c, self.rope, qk_norm=(q_norm, k_norm))
