"""Gemma 3 (arXiv:2503.19786)."""

from __future__ import annotations

import math
from functools import cached_property

from linnet.kernels.elementwise import GeluMultiply
from linnet.kernels.program import Buffer
from linnet.models.attention import Attention
from linnet.models.blocks import Block, FeedForward
from linnet.models.graph import Graph
from linnet.models.rope import Rope, frequencies
from linnet.models.transformer import Transformer
from linnet.models.weights import Weights

LAYERS_OF_27B = 62


class Gemma3(Transformer):
    """Norms before and after each block; five layers in six see a window, rotated faster."""

    attn_post_norm = "post_attention_norm"
    ffn_post_norm = "post_ffw_norm"

    @cached_property
    def local_rope(self) -> Rope:
        theta = self.keys.number("rope.freq_base_swa", 1.0, 1e12, default=10000.0)
        return Rope(frequencies(self.config.n_rot, theta))

    def attention(self, w: Weights, i: int) -> Block:
        c, window = self.config, self.window(i, every=6)
        return Attention.load(
            w, c, self.rope if window is None else self.local_rope,
            scale=(c.n_embd // c.n_heads) ** -0.5 if c.n_layers == LAYERS_OF_27B else 0.0,
            window=window, qk_norm=self.head_norms(w),
        )  # fmt: skip

    def feed_forward(self, w: Weights, i: int) -> Block:
        return FeedForward.load(w, self.config, activation=GeluMultiply())

    def embed(self, g: Graph) -> Buffer:
        return g.scale(super().embed(g), math.sqrt(self.config.n_embd))

    def logits(self, g: Graph, x: Buffer) -> Buffer:
        cap = self.keys.number("final_logit_softcapping", 0.0, 1e6, default=0.0)
        return g.softcap(super().logits(g, x), cap)
