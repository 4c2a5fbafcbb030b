"""Qwen 3.5 (Qwen team), whose layers come from Qwen3-Next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block, FeedForward
from linnet.models.parts.config import MAX_LAYERS, MAX_WIDTH
from linnet.models.parts.recurrent import GatedDeltaNet
from linnet.models.parts.rotary import RotaryEmbedding
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class Qwen35(Transformer):
    """Three layers in four are gated delta-nets; the attention of the fourth has an output gate."""

    ffn_norm = "post_attention_norm"

    def attention(self, w: Weights, i: int) -> Block:
        c, keys = self.config, self.keys
        every = keys.integer("full_attention_interval", 1, MAX_LAYERS, default=4)
        recurrent = (i + 1) % every != 0
        if keys.has("attention.recurrent_layers"):
            recurrent = keys.each("attention.recurrent_layers", 0, 1, n_layers=c.n_layers)[i] == 1
        if recurrent:
            return GatedDeltaNet.load(w, c, keys)
        return Attention.load(w, c, self.head_norms(w), self.rope, gated=True)

    def feed_forward(self, w: Weights, i: int) -> Block:
        return FeedForward.load(w, self.config, scaled=True)

    def main_rope(self, w: Weights) -> RotaryEmbedding:
        """Pair i rotates by time, height or width for i % 3 = 0, 1 or 2: for text, the token's
        position each; pairs from 3 * section on do not rotate."""
        rope = super().main_rope(w)
        sections = self.keys.each("rope.dimension_sections", 0, MAX_WIDTH, n_layers=4)
        pair = np.arange(self.config.n_rot // 2) % max(1, sum(sections))
        rotated = pair < 3 * np.take(sections, pair % 3)
        return replace(rope, frequencies=rope.frequencies * rotated, beyond=None)
