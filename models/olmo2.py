"""OLMo 2 and 3 (arXiv:2501.00656)."""

from __future__ import annotations

from functools import cached_property

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block
from linnet.models.parts.heads import HeadNorms
from linnet.models.parts.rotary import RotaryEmbedding, frequencies
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class Olmo2(Transformer):
    """Norms after the blocks alone, and one for all heads of the queries and one of the keys.

    In OLMo 3, three layers in four see a window, without the scaling of the others' positions.
    """

    attn_norm = ffn_norm = ""
    attn_post_norm = "post_attention_norm"
    ffn_post_norm = "post_ffw_norm"

    @cached_property
    def local_rope(self) -> RotaryEmbedding:
        return RotaryEmbedding(frequencies(self.config.n_rot, self.config.rope_theta))

    def attention(self, w: Weights, i: int) -> Block:
        c, window = self.config, self.window(i, every=4)
        norms = HeadNorms(
            self.norm.load(w, "attn_q_norm", c, c.n_heads * c.head_dim),
            self.norm.load(w, "attn_k_norm", c, c.n_kv_heads * c.head_dim),
        )
        rope = self.rope if window is None else self.local_rope
        return Attention.load(w, c, norms, rope, window=window)
