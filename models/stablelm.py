"""StableLM 2 (arXiv:2402.17834)."""

from __future__ import annotations

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block, LayerNorm
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class StableLM(Transformer):
    """Layer norms, one a layer in the 12B model; heads of queries and keys may have their own."""

    norm = LayerNorm
    parallel = True

    def attention(self, w: Weights, i: int) -> Block:
        return Attention.load(w, self.config, self.own_head_norms(w), self.rope)
