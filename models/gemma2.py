"""Gemma 2 (arXiv:2408.00118)."""

from __future__ import annotations

import math

from linnet.kernels.ops.elementwise import GeluMultiply
from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block, FeedForward
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class Gemma2(Transformer):
    """Norms before and after each block; every other layer sees a window; scores are capped."""

    attn_post_norm = "post_attention_norm"
    ffn_post_norm = "post_ffw_norm"
    layers_of_27b = 46
    usual_cap = 30.0

    def read_keys(self) -> None:
        cap = self.keys.number("final_logit_softcapping", 0.0, 1e6, default=self.usual_cap)
        self.logit_cap, self.embedding_scale = cap, math.sqrt(self.config.n_embd)

    def attention(self, w: Weights, i: int) -> Block:
        cap = self.keys.number("attn_logit_softcapping", 0.0, 1e6, default=50.0)
        window = self.window(i, every=2, default=4096)
        scale = self.attention_scale
        return Attention.load(w, self.config, self.rope, scale=scale, window=window, softcap=cap)

    @property
    def attention_scale(self) -> float:
        """What the file says, or of heads wider than the model is for its number of heads in the
        largest one."""
        c = self.config
        width = c.n_embd // c.n_heads if c.n_layers == self.layers_of_27b else c.head_dim
        return self.keys.number("attention.scale", 0.0, 1e6, default=0.0) or 1 / math.sqrt(width)

    def feed_forward(self, w: Weights, i: int) -> Block:
        return FeedForward.load(w, self.config, activation=GeluMultiply())
