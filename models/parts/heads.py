"""What queries, keys and values pass between their projections and attention, step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from linnet.kernels.runtime.program import Buffer
from linnet.models.parts.blocks import Block
from linnet.models.parts.graph import Graph
from linnet.models.parts.positions import PositionTable
from linnet.models.parts.weights import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """Queries, keys and values of one layer: (n_tokens, n heads * head_dim) each.

    `k`, `v`: None where those of an earlier layer are attended to. `gate`, shaped as `q`: what is
    attended to is multiplied by sigmoid(gate).
    """

    head_dim: int
    q: Buffer
    k: Buffer | None = None
    v: Buffer | None = None
    gate: Buffer | None = None


class HeadStep(Protocol):
    """Takes heads to heads; an attention has a sequence of these."""

    def record(self, g: Graph, heads: Heads) -> Heads: ...


@dataclass(frozen=True, slots=True, eq=False)
class HeadNorms:
    """Norms of queries, keys and values; None leaves them as they are."""

    q: Block
    k: Block | None
    v: Block | None = None

    def record(self, g: Graph, heads: Heads) -> Heads:
        q = self.q.record(g, heads.q)
        k = self.k.record(g, heads.k) if self.k and heads.k else heads.k
        v = self.v.record(g, heads.v) if self.v and heads.v else heads.v
        return replace(heads, q=q, k=k, v=v)


@dataclass(frozen=True, slots=True, eq=False)
class OutputGate:
    """Takes the gate out of `q`, where each head's follows its query: (n_tokens, n_heads, 2,
    head_dim) (Qwen3-Next; arXiv:2505.06708)."""

    def record(self, g: Graph, heads: Heads) -> Heads:
        n = heads.head_dim
        q, gate = (g.columns(heads.q, start, n, every=2 * n) for start in (0, n))
        return replace(heads, q=q, gate=gate)


@dataclass(frozen=True, slots=True)
class AttentionTemperature:
    """Queries at a position times 1 + scale * ln(1 + position // every), which scales their scores
    (Llama 4's attention temperature tuning)."""

    scale: float
    every: int

    def record(self, g: Graph, heads: Heads) -> Heads:
        return replace(heads, q=g.scale_by_position(heads.q, self))

    def table(self, n_ctx: int) -> PositionTable:
        """The factor at each position (n_ctx,)."""

        def rows(first: int, n: int) -> Floats:
            steps = np.arange(first, first + n) // self.every
            return (1 + self.scale * np.log1p(steps)).astype(np.float32)

        return PositionTable((n_ctx,), rows)
