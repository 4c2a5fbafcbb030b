"""LFM2 with experts (Liquid AI)."""

from __future__ import annotations

from linnet.models.lfm2 import Lfm2
from linnet.models.parts.blocks import Block
from linnet.models.parts.config import MAX_LAYERS
from linnet.models.parts.experts import Experts, gating
from linnet.models.parts.weights import Weights


class Lfm2Moe(Lfm2):
    """LFM2, with experts in all but the first layers."""

    def feed_forward(self, w: Weights, i: int) -> Block:
        if i < self.keys.integer("leading_dense_block_count", 0, MAX_LAYERS, default=0):
            return super().feed_forward(w, i)
        return Experts.load(w, self.config, self.keys, gating=gating(self.keys, normalised=True))
