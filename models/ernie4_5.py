"""ERNIE 4.5 (Baidu)."""

from __future__ import annotations

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class Ernie45(Transformer):
    """Llama without scales, and without a bias after attention: the published models have none,
    and llama.cpp leaves out what files have there."""

    adjacent = True

    def attention(self, w: Weights, i: int) -> Block:
        w.leave_out("attn_output.bias")
        return Attention.load(w, self.config, self.rope)
