"""Llama 1 to 3, and the many models built like them (arXiv:2302.13971, 2407.21783)."""

from __future__ import annotations

from linnet.models.parts.blocks import Block, FeedForward
from linnet.models.parts.experts import Experts
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class Llama(Transformer):
    """Neighbouring columns of a head rotate together. Mixtral, with experts, is a llama."""

    adjacent = True

    def feed_forward(self, w: Weights, i: int) -> Block:
        if "ffn_gate_inp.weight" in w:
            return Experts.load(w, self.config, self.keys, scaled=True)
        return FeedForward.load(w, self.config, scaled=True)
