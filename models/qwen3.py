"""Qwen 3 (arXiv:2505.09388)."""

from __future__ import annotations

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block, FeedForward
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class Qwen3(Transformer):
    """Queries and keys are normalised head by head."""

    def attention(self, w: Weights, i: int) -> Block:
        return Attention.load(w, self.config, self.head_norms(w), self.rope)

    def feed_forward(self, w: Weights, i: int) -> Block:
        return FeedForward.load(w, self.config, scaled=True)
