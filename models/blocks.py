"""The parts that transformers are made of, written once: attention and the feed-forward network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from linnet.kernels.program import Buffer
from linnet.kernels.rope import rope_table
from linnet.models.config import Config
from linnet.models.graph import Graph
from linnet.models.weights import Floats, Matrix, Weights


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Attention with grouped heads and rotary positions."""

    q: Matrix
    k: Matrix
    v: Matrix
    output: Matrix

    @classmethod
    def load(cls, weights: Weights, layer: str, config: Config) -> Attention:
        n_q, n_kv = (n * config.head_dim for n in (config.n_heads, config.n_kv_heads))
        return cls(
            q=weights.linear(f"{layer}.attn_q", n_q, config.n_embd),
            k=weights.linear(f"{layer}.attn_k", n_kv, config.n_embd),
            v=weights.linear(f"{layer}.attn_v", n_kv, config.n_embd),
            output=weights.linear(f"{layer}.attn_output", config.n_embd, n_q),
        )

    def record(
        self, g: Graph, x: Buffer, config: Config, rope: Floats, *, adjacent: bool
    ) -> Buffer:
        """x (n_tokens, n_embd) -> (n_tokens, n_embd)"""
        q, k, v = g.linear(x, self.q, self.k, self.v)
        q, k = (g.rope(y, rope, head_dim=config.head_dim, adjacent=adjacent) for y in (q, k))
        cache = g.cache(config.n_kv_heads, config.head_dim)
        (out,) = g.linear(
            g.attend(q, k, v, cache, scale=1 / math.sqrt(config.head_dim)), self.output
        )
        return out


@dataclass(frozen=True, slots=True, eq=False)
class FeedForward:
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    gate: Matrix
    up: Matrix
    down: Matrix

    @classmethod
    def load(cls, weights: Weights, layer: str, config: Config) -> FeedForward:
        n_ff, n_embd = config.n_ff, config.n_embd
        return cls(
            gate=weights.linear(f"{layer}.ffn_gate", n_ff, n_embd, scale_after_bias=True),
            up=weights.linear(f"{layer}.ffn_up", n_ff, n_embd, scale_after_bias=True),
            down=weights.linear(f"{layer}.ffn_down", n_embd, n_ff, scale_after_bias=True),
        )

    def record(self, g: Graph, x: Buffer) -> Buffer:
        """x (n_tokens, n_embd) -> (n_tokens, n_embd)"""
        gate, up = g.linear(x, self.gate, self.up)
        (out,) = g.linear(g.silu_multiply(gate, up), self.down)
        return out


def rope_for(config: Config, factors: Floats | None, n_ctx: int) -> Floats:
    """The table `Graph.rope` takes, for positions 0 to n_ctx - 1.

    Pair i turns by theta^(-2i / n_rot) radians a position (arXiv:2104.09864, eq. 15), divided by
    the file's own factors (n_rot / 2,), as in Llama 3.1's `rope_freqs.weight`.
    """
    frequencies = config.rope_theta ** (-np.arange(0, config.n_rot, 2) / config.n_rot)
    frequencies /= config.rope_scale
    if factors is not None:
        frequencies /= factors
    return rope_table(n_ctx, frequencies)
