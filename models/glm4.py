"""GLM 4 and Z1 (arXiv:2406.12793)."""

from __future__ import annotations

from linnet.models.parts.blocks import Block, FeedForward
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class Glm4(Transformer):
    """Norms before and after each block; part of each head is rotated; gate and up are fused."""

    adjacent = True
    attn_post_norm = "post_attention_norm"
    ffn_post_norm = "post_ffw_norm"

    def feed_forward(self, w: Weights, i: int) -> Block:
        return FeedForward.load(w, self.config, fused=True)
