"""Llama 1 to 3, and the many models built like them (arXiv:2302.13971, 2407.21783)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from linnet.kernels.program import Buffer
from linnet.models.blocks import Attention, FeedForward, rope_for
from linnet.models.config import Config
from linnet.models.graph import Graph
from linnet.models.weights import Floats, Tensor, Weights


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One transformer block."""

    attn_norm: Floats
    attention: Attention
    ffn_norm: Floats
    feed_forward: FeedForward


class Llama:
    """Pre-norm blocks of attention and SwiGLU; the output may share the embedding's weights."""

    def __init__(self, metadata: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
        """Raises ModelError."""
        weights = Weights(tensors)
        n_vocab = weights.n_rows("token_embd.weight")
        self.config = config = Config.from_metadata(metadata, n_vocab)
        self.token_embd = weights.linear("token_embd", n_vocab, config.n_embd)
        self.layers = [self._layer(weights, f"blk.{i}") for i in range(config.n_layers)]
        self.output_norm = weights.vector("output_norm.weight", config.n_embd)
        tied = "output.weight" not in weights
        self.output = self.token_embd if tied else weights.linear("output", n_vocab, config.n_embd)
        factors = "rope_freqs.weight"
        self.rope_factors = (
            weights.vector(factors, config.n_rot // 2) if factors in weights else None
        )

    def _layer(self, weights: Weights, name: str) -> Layer:
        return Layer(
            attn_norm=weights.vector(f"{name}.attn_norm.weight", self.config.n_embd),
            attention=Attention.load(weights, name, self.config),
            ffn_norm=weights.vector(f"{name}.ffn_norm.weight", self.config.n_embd),
            feed_forward=FeedForward.load(weights, name, self.config),
        )

    def record(self, g: Graph) -> Buffer:
        """Record a forward pass; returns the logits (n_outputs, n_vocab)."""
        eps = self.config.norm_eps
        rope = rope_for(self.config, self.rope_factors, g.n_ctx)
        x = g.embed(self.token_embd)
        for layer in self.layers:
            h = g.rms_norm(x, layer.attn_norm, eps)
            x = g.add(x, layer.attention.record(g, h, self.config, rope, adjacent=True))
            h = g.rms_norm(x, layer.ffn_norm, eps)
            x = g.add(x, layer.feed_forward.record(g, h))
        (logits,) = g.linear(g.rms_norm(g.outputs(x), self.output_norm, eps), self.output)
        return logits
