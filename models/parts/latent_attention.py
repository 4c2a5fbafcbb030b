"""Multi-head latent attention: keys and values of all heads in one short vector a position.

A head's keys are k_b.T @ latent, and its values v_b @ latent (DeepSeek-V2, arXiv:2405.04434). So
q @ keys = (k_b @ q) @ latent: queries are taken to the latent space, where attention has a single
head of keys, and what it finds there is taken back, head by head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from linnet.kernels.runtime.program import Buffer
from linnet.models.parts.blocks import Block
from linnet.models.parts.experts import Chosen, expert_linear
from linnet.models.parts.graph import Graph
from linnet.models.parts.rotary import RotaryEmbedding
from linnet.models.parts.weights import Matrix


@dataclass(frozen=True, slots=True, eq=False)
class LatentAttention:
    """Heads of `n_plain` columns without position and `n_rot` that are rotated by it."""

    q_down: Matrix | None  # queries may pass a bottleneck
    q_norm: Block | None
    q: Matrix
    kv: Matrix  # to the latent vector, and to the rotated part of the keys
    kv_norm: Block
    k_b: Matrix  # (n_heads, n_latent, n_plain)
    v_b: Matrix  # (n_heads, n_values, n_latent)
    output: Matrix
    rope: RotaryEmbedding
    scale: float

    def record(self, g: Graph, x: Buffer) -> Buffer:
        """x (n_tokens, n_embd) -> (n_tokens, n_embd)"""
        n_heads, n_latent, n_plain = len(self.k_b.packed), self.k_b.n_out, self.k_b.n_columns
        n_rot, head_dim = 2 * self.rope.frequencies.size, self.q.n_out // n_heads
        of_q = x
        if self.q_down and self.q_norm:
            (of_q,) = g.linear(x, self.q_down)
            of_q = self.q_norm.record(g, of_q)
        (q,) = g.linear(of_q, self.q)
        (kv,) = g.linear(x, self.kv)
        q_rotated, k_rotated = (
            self.rope.rotate(g, g.columns(y, start, n_rot, every=start + n_rot), n_rot)
            for y, start in ((q, n_plain), (kv, n_latent))
        )
        heads = every_head(g, n_heads)
        q = expert_linear(g, g.columns(q, 0, n_plain, every=head_dim), heads, self.k_b)
        latent = g.columns(kv, 0, n_latent, every=kv.width)
        k = g.join(self.kv_norm.record(g, latent), k_rotated, n_parts=1)
        found = g.attend(
            g.join(q, q_rotated, n_parts=n_heads), k, k, g.cache(1, n_latent + n_rot),
            scale=self.scale,
        )  # fmt: skip
        values = g.columns(found, 0, n_latent, every=n_latent + n_rot)
        (out,) = g.linear(expert_linear(g, values, heads, self.v_b), self.output)
        return out


def every_head(g: Graph, n_heads: int) -> Chosen:
    """Matrices of heads as those of experts, of which every token takes all, in order; grouped once
    for all layers."""
    key = every_head, n_heads
    if key not in g.shared:
        heads = g.program.buffer("heads", n_heads, dtype=np.int32)
        heads.array = np.tile(np.arange(n_heads, dtype=np.int32), (g.program.max_tokens, 1))
        g.shared[key] = Chosen.record(g, heads, n_heads)
    chosen: Chosen = g.shared[key]
    return chosen
