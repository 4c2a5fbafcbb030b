"""Gemma 3 (arXiv:2503.19786)."""

from __future__ import annotations

from functools import cached_property

from linnet.models.gemma2 import Gemma2
from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block
from linnet.models.parts.rotary import RotaryEmbedding, frequencies
from linnet.models.parts.weights import Weights


class Gemma3(Gemma2):
    """Norms of queries and keys instead of capped scores; five layers in six see a window, where
    rotation has a base of its own."""

    layers_of_27b = 62
    usual_cap = 0.0

    @cached_property
    def local_rope(self) -> RotaryEmbedding:
        theta = self.keys.number("rope.freq_base_swa", 1.0, 1e12, default=10000.0)
        return RotaryEmbedding(frequencies(self.local_n_rot, theta))

    @property
    def local_n_rot(self) -> int:
        return self.config.n_rot

    def attention(self, w: Weights, i: int) -> Block:
        window = self.window(i, every=6)
        rope = self.rope if window is None else self.local_rope
        return Attention.load(
            w, self.config, self.head_norms(w), rope, scale=self.attention_scale, window=window
        )
