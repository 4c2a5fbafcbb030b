"""StarCoder 2 (arXiv:2402.19173)."""

from __future__ import annotations

from linnet.kernels.ops.elementwise import Gelu
from linnet.models.parts.blocks import Block, LayerNorm, Perceptron
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class StarCoder2(Transformer):
    """Layer norms and no gate; biases everywhere, which the file holds."""

    norm = LayerNorm

    def feed_forward(self, w: Weights, i: int) -> Block:
        return Perceptron.load(w, self.config, activation=Gelu())
