"""Command R7B and A (Cohere, arXiv:2504.00698)."""

from __future__ import annotations

from linnet.models.command_r import CommandR
from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block, FeedForward
from linnet.models.parts.weights import Weights


class Cohere2(CommandR):
    """Three layers in four see a window; the fourth sees all, without rotation."""

    def attention(self, w: Weights, i: int) -> Block:
        window = self.window(i, every=4)
        return Attention.load(w, self.config, self.rope if window else None, window=window)

    def feed_forward(self, w: Weights, i: int) -> Block:
        return FeedForward.load(w, self.config, scaled=True)
