"""Command R and R+ (Cohere)."""

from __future__ import annotations

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block, LayerNorm
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class CommandR(Transformer):
    """One layer norm a layer; in R+ heads of queries and keys have their own; logits are scaled."""

    norm = LayerNorm
    parallel = adjacent = True

    def read_keys(self) -> None:
        self.logit_scale = self.keys.factor("logit_scale")

    def attention(self, w: Weights, i: int) -> Block:
        return Attention.load(w, self.config, self.own_head_norms(w), self.rope)
