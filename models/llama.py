"""Llama 1 to 3, and the many models built like them (arXiv:2302.13971, 2407.21783)."""

from __future__ import annotations

from linnet.models.blocks import Block, FeedForward
from linnet.models.transformer import Transformer
from linnet.models.weights import Weights


class Llama(Transformer):
    """Neighbouring numbers of a head are turned together."""

    adjacent = True

    def feed_forward(self, w: Weights, i: int) -> Block:
        return FeedForward.load(w, self.config, scaled=True)
