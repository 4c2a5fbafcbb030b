"""Attention: projections, what their heads pass in order, a softmax over the past, an output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from linnet.kernels.ops.elementwise import SigmoidMultiply
from linnet.kernels.runtime.program import Buffer
from linnet.models.parts.config import Config
from linnet.models.parts.graph import Graph
from linnet.models.parts.heads import Heads, HeadStep, OutputGate
from linnet.models.parts.weights import Floats, Matrix, Weights


@dataclass(frozen=True, slots=True, eq=False)
class ScaledDotProduct:
    """softmax(scale * q @ keys) @ values over a token's past (arXiv:1706.03762), by grouped heads.

    `window`: how many positions a token sees, its own too; None for all before it. `softcap`: a
    score s becomes softcap * tanh(s / softcap); 0 for none. `sinks` (n_heads,): a score for each
    head that takes weight and gives no value (arXiv:2309.17453). `source`: whose keys and values
    are attended to, where the layer has none of its own.
    """

    n_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    softcap: float = 0.0
    sinks: Floats | None = None
    source: ScaledDotProduct | None = None

    def record(self, g: Graph, heads: Heads) -> Buffer:
        """Stores keys and values, if there are any; returns (n_tokens, n_heads * head_dim)."""
        owner = self.source or self
        cache = g.cache(self.n_kv_heads, self.head_dim, window=self.window, owner=owner)
        return g.attend(
            heads.q, heads.k, heads.v, cache,
            scale=self.scale, softcap=self.softcap, sinks=self.sinks,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """output(attend(steps(q(x), k(x), v(x)))); x (n_tokens, n_embd) -> (n_tokens, n_embd).

    `steps`: norms, rotation and the like, in their order. `v` may be `k`: values are then what
    keys are before the steps.
    """

    q: Matrix
    k: Matrix | None
    v: Matrix | None
    steps: Sequence[HeadStep]
    attend: ScaledDotProduct
    output: Matrix

    @classmethod
    def load(
        cls, w: Weights, config: Config, *steps: HeadStep | None, head_dim: int = 0,
        n_kv_heads: int = 0, scale: float = 0.0, window: int | None = None, softcap: float = 0.0,
        gated: bool = False,
    ) -> Attention:  # fmt: skip
        """Steps of None are left out. `head_dim`, `n_kv_heads`: the model's for 0; `scale`:
        1 / sqrt(head_dim) for 0; `gated`: see `OutputGate`. Projections may be one matrix in the
        file."""
        n_kv_heads, head_dim = n_kv_heads or config.n_kv_heads, head_dim or config.head_dim
        n_q, n_kv = config.n_heads * head_dim, n_kv_heads * head_dim
        q, k, v = projections(w, config.n_embd, 2 * n_q if gated else n_q, n_kv)
        sinks = w.optional("attn_sinks.weight", config.n_heads)
        scale = scale or 1 / math.sqrt(head_dim)
        return cls(
            q=q,
            k=k,
            v=v,
            steps=[step for step in (OutputGate() if gated else None, *steps) if step],
            attend=ScaledDotProduct(n_kv_heads, head_dim, scale, window, softcap, sinks),
            output=w.matrix("attn_output", config.n_embd, n_q),
        )

    def record(self, g: Graph, x: Buffer) -> Buffer:
        (q,) = g.linear(x, self.q)
        k = v = None
        if self.k and self.v:
            (k,) = g.linear(x, self.k)
            (v,) = g.linear(x, self.v) if self.v is not self.k else (k,)
        heads = Heads(self.attend.head_dim, q, k, v)
        for step in self.steps:
            heads = step.record(g, heads)
        out = self.attend.record(g, heads)
        if heads.gate:
            out = g.combine(SigmoidMultiply(), heads.gate, out)
        (out,) = g.linear(out, self.output)
        return out


def projections(w: Weights, n_embd: int, n_q: int, n_kv: int) -> tuple[Matrix, Matrix, Matrix]:
    """The matrices of queries, keys and values, which a file may hold as one."""
    sizes = {"attn_q": n_q, "attn_k": n_kv, "attn_v": n_kv}
    if "attn_qkv.weight" not in w:
        q, k, v = (w.matrix(name, n, n_embd) for name, n in sizes.items())
        return q, k, v
    fused = w.matrix("attn_qkv", n_q + 2 * n_kv, n_embd)
    q, k, v = (
        part if part.bias is not None else replace(part, bias=w.optional(f"{name}.bias", n))
        for part, (name, n) in zip(fused.split(n_q, n_kv, n_kv), sizes.items(), strict=True)
    )
    return q, k, v
