"""gpt-oss (arXiv:2508.10925)."""

from __future__ import annotations

from linnet.kernels.ops.elementwise import ClampedSwiGlu
from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block
from linnet.models.parts.experts import Experts
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class GptOss(Transformer):
    """Every other layer sees a window; sinks take weight from all; experts with biases, clamped."""

    ffn_norm = "post_attention_norm"

    def attention(self, w: Weights, i: int) -> Block:
        return Attention.load(w, self.config, self.rope, window=self.window(i, every=2))

    def feed_forward(self, w: Weights, i: int) -> Block:
        return Experts.load(w, self.config, self.keys, activation=ClampedSwiGlu())
