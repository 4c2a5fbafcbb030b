"""Ministral 3 (Mistral AI)."""

from __future__ import annotations

from dataclasses import replace

from linnet.models.llama import Llama
from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block
from linnet.models.parts.config import MAX_CONTEXT
from linnet.models.parts.positions import Temperature
from linnet.models.parts.weights import Weights


class Mistral3(Llama):
    """Llama with positions scaled by YaRN, and attention that sharpens with position."""

    def attention(self, w: Weights, i: int) -> Block:
        attention = Attention.load(w, self.config, self.rope)
        scale = self.keys.number("attention.temperature_scale", 0.0, 1e3, default=0.0)
        if not scale:
            return attention
        key = "rope.scaling.original_context_length"
        every = self.keys.integer(key, 1, MAX_CONTEXT, default=self.config.n_ctx_train)
        return replace(attention, temperature=Temperature(scale, every))
