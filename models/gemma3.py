"""Gemma 3 (arXiv:2503.19786)."""

from __future__ import annotations

from functools import cached_property

from linnet.models.gemma2 import Gemma2
from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block
from linnet.models.parts.rope import Rope, frequencies
from linnet.models.parts.weights import Weights


class Gemma3(Gemma2):
    """Queries and keys are normalised instead of capped; five layers in six see a window, in which
    they are turned faster."""

    layers_of_27b = 62
    usual_cap = 0.0

    @cached_property
    def local_rope(self) -> Rope:
        theta = self.keys.number("rope.freq_base_swa", 1.0, 1e12, default=10000.0)
        return Rope(frequencies(self.config.n_rot, theta))

    def attention(self, w: Weights, i: int) -> Block:
        window = self.window(i, every=6)
        return Attention.load(
            w,
            self.config,
            rope=self.rope if window is None else self.local_rope,
            scale=self.attention_scale,
            window=window,
            qk_norm=self.head_norms(w),
        )
