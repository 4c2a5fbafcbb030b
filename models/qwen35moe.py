"""Qwen 3.5 with experts (Qwen team)."""

from __future__ import annotations

from linnet.models.parts.blocks import Block
from linnet.models.parts.experts import Experts, with_shared
from linnet.models.parts.weights import Weights
from linnet.models.qwen35 import Qwen35


class Qwen35Moe(Qwen35):
    """Qwen 3.5, with experts in every layer, and a network with a gate that all tokens take."""

    def feed_forward(self, w: Weights, i: int) -> Block:
        experts = Experts.load(w, self.config, self.keys, scaled=True)
        return with_shared(w, self.config, self.keys, experts, scaled=True)
