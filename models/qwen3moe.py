"""Qwen 3 with experts (arXiv:2505.09388)."""

from __future__ import annotations

from linnet.models.parts.blocks import Block
from linnet.models.parts.experts import Experts
from linnet.models.parts.weights import Weights
from linnet.models.qwen3 import Qwen3


class Qwen3Moe(Qwen3):
    """Qwen 3, with experts in every layer."""

    def feed_forward(self, w: Weights, i: int) -> Block:
        return Experts.load(w, self.config, self.keys, scaled=True)
