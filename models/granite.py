"""Granite 3 and 4 without state-space layers (IBM)."""

from __future__ import annotations

from linnet.kernels.program import Buffer
from linnet.models.attention import Attention
from linnet.models.blocks import Block, Residual
from linnet.models.graph import Graph
from linnet.models.transformer import Transformer
from linnet.models.weights import Weights


class Granite(Transformer):
    """Llama with numbers that scale embeddings, scores, residuals and logits (arXiv:2203.03466);
    some files turn nothing by position."""

    adjacent = True

    def residual(self, w: Weights, block: Block, norm: str, post_norm: str) -> Block:
        return Residual(block, self.norm.load(w, norm, self.config), scale=self._scale("residual"))

    def attention(self, w: Weights, i: int) -> Block:
        rope = self.rope if self.keys.flag("rope.scaling.finetuned", default=True) else None
        scale = self.keys.number("attention.scale", 0.0, 1e6, default=0.0)
        return Attention.load(w, self.config, rope, scale=scale)

    def embed(self, g: Graph) -> Buffer:
        return g.scale(super().embed(g), self._scale("embedding"))

    def logits(self, g: Graph, x: Buffer) -> Buffer:
        return g.scale(super().logits(g, x), 1 / self._scale("logit"))

    def _scale(self, of: str) -> float:
        """0 in a file means none."""
        return self.keys.number(f"{of}_scale", 0.0, 1e6, default=0.0) or 1.0
