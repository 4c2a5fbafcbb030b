"""Granite 3 and 4 without state-space layers (IBM)."""

from __future__ import annotations

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block, FeedForward, Residual
from linnet.models.parts.experts import Experts, with_shared
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class Granite(Transformer):
    """Llama with numbers that scale embeddings, scores, residuals and logits (arXiv:2203.03466);
    some files have no rotation, and some have experts beside a network that all tokens take."""

    adjacent = True

    def read_keys(self) -> None:
        self.embedding_scale = self.keys.factor("embedding_scale")
        self.logit_scale = 1 / self.keys.factor("logit_scale")
        self.residual_scale = self.keys.factor("residual_scale")

    def residual(self, w: Weights, block: Block, norm: str, post_norm: str) -> Block:
        return Residual(block, self.norm.load(w, norm, self.config), scale=self.residual_scale)

    def attention(self, w: Weights, i: int) -> Block:
        rope = self.rope if self.keys.flag("rope.scaling.finetuned", default=True) else None
        scale = self.keys.number("attention.scale", 0.0, 1e6, default=0.0)
        return Attention.load(w, self.config, rope, scale=scale)

    def feed_forward(self, w: Weights, i: int) -> Block:
        if "ffn_gate_inp.weight" not in w:
            return FeedForward.load(w, self.config)
        experts = Experts.load(w, self.config, self.keys)
        return with_shared(w, self.config, self.keys, experts)
