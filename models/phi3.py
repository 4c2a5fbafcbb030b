"""Phi 3 and 4 (arXiv:2404.14219, 2412.08905)."""

from __future__ import annotations

from linnet.models.parts.blocks import Block, FeedForward
from linnet.models.parts.config import MAX_CONTEXT
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class Phi3(Transformer):
    """Queries, keys and values come of one matrix, gate and up of another; part of each head is
    rotated, with factors for short and for long contexts.

    Its sliding window, which files do not state as the model was trained, is left out.
    """

    def read_keys(self) -> None:
        self.keys.integer("attention.sliding_window", 0, MAX_CONTEXT, default=0)

    def feed_forward(self, w: Weights, i: int) -> Block:
        return FeedForward.load(w, self.config, fused=True)
