"""Attention, written once, with all that architectures vary about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from linnet.kernels.ops.elementwise import SigmoidMultiply
from linnet.kernels.runtime.program import Buffer
from linnet.models.parts.blocks import Block
from linnet.models.parts.config import Config
from linnet.models.parts.graph import Graph
from linnet.models.parts.positions import Temperature
from linnet.models.parts.rope import Rope
from linnet.models.parts.weights import Floats, Matrix, Weights


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Attention with grouped heads: output(softmax(scale * q @ keys) @ values).

    `rope`: how positions turn queries and keys, None for not at all. `q_norm`, `k_norm`: what
    queries and keys pass before they are turned, or after (`norms_last`). `window`: how many
    positions a token sees, None for all before it. `softcap`: scores stay within it, where it is
    not 0. `sinks`: a score for each head that takes weight and gives no value. `temperature`: how
    scores grow with position. `gated`: the product with q has, for each head, its gate behind its
    query; what the head attends to is multiplied by sigmoid(gate).
    `source`: whose keys and values are attended to, where there are none of its own. `v` may be
    `k`: values are then keys before their norm.
    """

    q: Matrix
    k: Matrix | None
    v: Matrix | None
    output: Matrix
    n_kv_heads: int
    head_dim: int
    rope: Rope | None
    scale: float
    q_norm: Block | None = None
    k_norm: Block | None = None
    window: int | None = None
    softcap: float = 0.0
    sinks: Floats | None = None
    temperature: Temperature | None = None
    gated: bool = False
    norms_last: bool = False
    v_norm: Block | None = None
    source: Attention | None = None

    @classmethod
    def load(
        cls, w: Weights, config: Config, rope: Rope | None, *,
        head_dim: int | None = None, n_kv_heads: int | None = None, scale: float = 0.0,
        qk_norm: tuple[Block | None, Block | None] = (None, None), window: int | None = None,
        softcap: float = 0.0, gated: bool = False,
    ) -> Attention:  # fmt: skip
        """Projections may be fused in the file. A `scale` of 0 means 1 / sqrt(head_dim)."""
        n_heads, n_kv_heads = config.n_heads, n_kv_heads or config.n_kv_heads
        head_dim = head_dim or config.head_dim
        n_q, n_kv = n_heads * head_dim, n_kv_heads * head_dim
        q, k, v = projections(w, config.n_embd, 2 * n_q if gated else n_q, n_kv)
        return cls(
            q=q,
            k=k,
            v=v,
            output=w.linear("attn_output", config.n_embd, n_q),
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            rope=rope,
            scale=scale or 1 / math.sqrt(head_dim),
            q_norm=qk_norm[0],
            k_norm=qk_norm[1],
            window=window,
            softcap=softcap,
            sinks=w.optional("attn_sinks.weight", n_heads),
            gated=gated,
        )

    def record(self, g: Graph, x: Buffer) -> Buffer:
        """x (n_tokens, n_embd) -> (n_tokens, n_embd)"""
        (q,) = g.linear(x, self.q)
        k = v = None
        if self.k and self.v:
            (k,) = g.linear(x, self.k)
            (v,) = g.linear(x, self.v) if self.v is not self.k else (k,)
        if self.gated:
            q, gate = (
                g.columns(q, start, self.head_dim, every=2 * self.head_dim)
                for start in (0, self.head_dim)
            )
        q = self._placed(g, q, self.q_norm)
        k = self._placed(g, k, self.k_norm) if k else None
        v = self.v_norm.record(g, v) if v and self.v_norm else v
        if self.temperature:
            q = g.sharpen(q, self.temperature)
        out = g.attend(
            q, k, v,
            g.cache(
                self.n_kv_heads, self.head_dim, window=self.window, owner=self.source or self
            ),
            scale=self.scale, softcap=self.softcap, sinks=self.sinks,
        )  # fmt: skip
        if self.gated:
            out = g.combine(SigmoidMultiply(), gate, out)
        (out,) = g.linear(out, self.output)
        return out

    def _placed(self, g: Graph, x: Buffer, norm: Block | None) -> Buffer:
        """Queries or keys, normalised and turned by position."""
        if self.rope and self.norms_last:
            x = g.rope(x, self.rope, head_dim=self.head_dim)
        x = norm.record(g, x) if norm else x
        if self.rope and not self.norms_last:
            x = g.rope(x, self.rope, head_dim=self.head_dim)
        return x


def projections(w: Weights, n_embd: int, n_q: int, n_kv: int) -> tuple[Matrix, Matrix, Matrix]:
    """The matrices of queries, keys and values, which a file may hold as one."""
    sizes = {"attn_q": n_q, "attn_k": n_kv, "attn_v": n_kv}
    if "attn_qkv.weight" not in w:
        q, k, v = (w.linear(name, n, n_embd) for name, n in sizes.items())
        return q, k, v
    fused = w.linear("attn_qkv", n_q + 2 * n_kv, n_embd)
    q, k, v = (
        part if part.bias is not None else replace(part, bias=w.optional(f"{name}.bias", n))
        for part, (name, n) in zip(fused.split(n_q, n_kv, n_kv), sizes.items(), strict=True)
    )
    return q, k, v
