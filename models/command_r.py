"""Command R and R+ (Cohere)."""

from __future__ import annotations

from collections.abc import Sequence

from linnet.models.attention import Attention
from linnet.models.blocks import Block, LayerNorm, Parallel, Residual
from linnet.models.transformer import Transformer
from linnet.models.weights import Weights


class CommandR(Transformer):
    """Attention and feed-forward network of the same layer norm; logits are scaled."""

    norm = LayerNorm
    adjacent = True

    def read_keys(self) -> None:
        self.logit_scale = self.keys.factor("logit_scale")

    def layer(self, w: Weights, i: int) -> Sequence[Block]:
        blocks = Parallel([self.attention(w, i), self.feed_forward(w, i)])
        return [Residual(blocks, self.norm.load(w, "attn_norm", self.config))]

    def attention(self, w: Weights, i: int) -> Block:
        norms = self.norms_of_heads(w) if "attn_q_norm.weight" in w else (None, None)
        return Attention.load(w, self.config, self.rope, qk_norm=norms)
