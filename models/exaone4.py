"""EXAONE 4 (arXiv:2507.11407)."""

from __future__ import annotations

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights

LAYERS_OF_32B = 64


class Exaone4(Transformer):
    """Norms after the blocks, and of every head. In the 32B model three layers in four see a
    window, and the fourth has no rotation."""

    attn_norm = ffn_norm = ""
    attn_post_norm = "post_attention_norm"
    ffn_post_norm = "post_ffw_norm"

    def attention(self, w: Weights, i: int) -> Block:
        c, norms = self.config, self.head_norms(w)
        if c.n_layers != LAYERS_OF_32B:
            return Attention.load(w, c, norms, self.rope)
        window = self.window(i, every=4, default=4096)
        return Attention.load(w, c, norms, self.rope if window else None, window=window)
