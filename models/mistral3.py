"""Ministral 3 (Mistral AI)."""

from __future__ import annotations

from linnet.models.llama import Llama
from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block
from linnet.models.parts.config import MAX_CONTEXT
from linnet.models.parts.heads import AttentionTemperature
from linnet.models.parts.weights import Weights


class Mistral3(Llama):
    """Llama with positions scaled by YaRN, and scores that grow with position."""

    def attention(self, w: Weights, i: int) -> Block:
        key, trained = "rope.scaling.original_context_length", self.config.n_ctx_train
        scale = self.keys.number("attention.temperature_scale", 0.0, 1e3, default=0.0)
        every = self.keys.integer(key, 1, MAX_CONTEXT, default=trained) if scale else 0
        temperature = AttentionTemperature(scale, every) if scale else None
        return Attention.load(w, self.config, self.rope, temperature)
