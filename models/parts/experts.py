"""A feed-forward network of experts, of which each token takes a few (arXiv:1701.06538)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linnet.kernels.ops.elementwise import Elementwise
from linnet.kernels.ops.routing import (
    MOST_EXPERTS,
    GroupByExpert,
    PerExpert,
    SumExperts,
    TopExperts,
)
from linnet.kernels.products.experts import ExpertLinear
from linnet.kernels.runtime.program import Buffer
from linnet.models.parts.blocks import (
    MULTIPLIED_BY_SILU,
    Block,
    FeedForward,
    GatedBySigmoid,
    Parallel,
)
from linnet.models.parts.config import MAX_WIDTH, Config, Keys
from linnet.models.parts.graph import Graph
from linnet.models.parts.weights import Floats, Matrix, Weights


@dataclass(frozen=True, slots=True)
class Gating:
    """How a token's experts are chosen and weighted: by the `scores` "softmax" or "sigmoid".

    `normalised`: weights of the chosen are divided by their sum; then `scale` multiplies them.
    """

    scores: str = "softmax"
    normalised: bool = True
    scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """`experts` (n_tokens, n_used) i32: those of each token. `order`, `starts`: the same grouped by
    expert, as `GroupByExpert` writes them."""

    experts: Buffer
    order: Buffer
    starts: npt.NDArray[np.int64]

    @classmethod
    def record(cls, g: Graph, experts: Buffer, n_experts: int) -> Chosen:
        n_used = experts.width
        order = g.program.buffer("order", n_used, dtype=np.int32)
        starts = np.zeros(n_experts + 1, np.int64)
        g.program.step(
            "group by expert", GroupByExpert(),
            experts=experts, order=order, starts=starts, n_used=n_used, n_experts=n_experts,
        )  # fmt: skip
        return cls(experts, order, starts)

    @property
    def n_used(self) -> int:
        return self.experts.width


def gating(keys: Keys, *, normalised: bool) -> Gating:
    """As the file says: 0 or 1 for softmax, 2 for sigmoid; a scale of 0 means none."""
    function = keys.integer("expert_gating_func", 0, 2, default=0)
    scale = keys.factor("expert_weights_scale")
    return Gating("sigmoid" if function == 2 else "softmax", normalised, scale)


@dataclass(frozen=True, slots=True, eq=False)
class Experts:
    """sum over the best experts e of weight[e] * down[e](activation(gate[e](x), up[e](x)))."""

    router: Matrix
    bias: Floats | None  # added to the scores for choosing
    gate: Matrix
    up: Matrix
    down: Matrix
    n_used: int
    gating: Gating
    activation: Elementwise
    norm: Block | None  # what x passes before the experts, and before the router
    router_norm: Block | None

    @classmethod
    def load(
        cls, w: Weights, config: Config, keys: Keys, *, gating: Gating = Gating(),
        activation: Elementwise = MULTIPLIED_BY_SILU, scaled: bool = False,
        norm: Block | None = None, router_norm: Block | None = None,
    ) -> Experts:  # fmt: skip
        """`scaled`: whether the architecture has scales here."""
        n_experts = keys.integer("expert_count", 1, MOST_EXPERTS)
        n_used = keys.integer("expert_used_count", 1, n_experts)
        key, n_embd = "expert_feed_forward_length", config.n_embd
        n_ff = keys.integer(key, 0, MAX_WIDTH, default=0) or config.n_ff
        if "ffn_gate_up_exps.weight" in w:
            fused = w.matrix("ffn_gate_up_exps", n_experts, 2 * n_ff, n_embd, scaled=False)
            gate, up = fused.split(n_ff, n_ff)
        else:
            gate, up = (
                w.matrix(name, n_experts, n_ff, n_embd, scaled=scaled)
                for name in ("ffn_gate_exps", "ffn_up_exps")
            )
        return cls(
            router=w.matrix("ffn_gate_inp", n_experts, n_embd, scaled=False),
            bias=w.optional("exp_probs_b.bias", n_experts),
            gate=gate,
            up=up,
            down=w.matrix("ffn_down_exps", n_experts, n_embd, n_ff, scaled=scaled),
            n_used=n_used,
            gating=gating,
            activation=activation,
            norm=norm,
            router_norm=router_norm,
        )

    def record(self, g: Graph, x: Buffer) -> Buffer:
        """x (n_tokens, n_embd) -> (n_tokens, n_embd)"""
        of_router = self.router_norm.record(g, x) if self.router_norm else x
        x = self.norm.record(g, x) if self.norm else x
        (logits,) = g.linear(of_router, self.router)
        chosen, weights = self._choose(g, logits)
        gate, up = (expert_linear(g, x, chosen, matrices) for matrices in (self.gate, self.up))
        y = expert_linear(g, g.combine(self.activation, gate, up), chosen, self.down)
        out = g.buffer("experts", self.down.n_out)
        g.program.step(
            "sum experts", SumExperts(), x=y, weights=weights, out=out,
            n_used=self.n_used, width=out.width,
        )  # fmt: skip
        return out

    def _choose(self, g: Graph, logits: Buffer) -> tuple[Chosen, Buffer]:
        """The best experts for each token, and their weights (n_tokens, n_used)."""
        n_experts, n_used = logits.width, self.n_used
        experts = g.program.buffer("chosen", n_used, dtype=np.int32)
        weights, gating = g.buffer("weights", n_used), self.gating
        g.program.step(
            "choose experts", TopExperts(gating.scores, gating.normalised),
            logits=logits, bias=np.zeros(n_experts, np.float32) if self.bias is None else self.bias,
            experts=experts, weights=weights, n_experts=n_experts, n_used=n_used,
            scale=gating.scale,
        )  # fmt: skip
        return Chosen.record(g, experts, n_experts), weights


def expert_linear(g: Graph, x: Buffer, chosen: Chosen, matrices: Matrix) -> Buffer:
    """Each token's x, or its x for each of its experts, times the experts' matrices.

    x: (n_tokens, n_columns) or (n_tokens, n_used, n_columns) -> (n_tokens, n_used, n_out)
    """
    n_used, width, n_columns = chosen.n_used, matrices.n_out, matrices.n_columns
    n_experts = len(matrices.packed)
    op = ExpertLinear.of(matrices.type, n_columns, activations=g.numerics.activations)
    out = g.buffer(matrices.name, n_used * width)
    g.product(
        matrices.name, op, x, weights=matrices.packed, out=out,
        n_columns=n_columns, n_out=width, experts=chosen.experts, order=chosen.order,
        starts=chosen.starts, n_experts=n_experts, n_used=n_used,
        n_sharing=n_used * n_columns // x.width, expert_bytes=matrices.packed.strides[0],
    )  # fmt: skip
    if matrices.scale is None and matrices.bias is None:
        return out
    scales, biases = matrices.scale, matrices.bias
    added = g.buffer("bias", n_used * width)
    g.program.step(
        "bias of experts", PerExpert(), x=out, experts=chosen.experts, out=added, n_used=n_used,
        width=width, scales=np.ones(n_experts, np.float32) if scales is None else scales,
        biases=np.zeros((n_experts, width), np.float32) if biases is None else biases,
    )  # fmt: skip
    return added


def with_shared(
    w: Weights, config: Config, keys: Keys, experts: Experts, *, scaled: bool = False, n_ff: int = 0
) -> Block:
    """Experts and a network that all tokens take, where the file has one, perhaps with a gate.

    `n_ff`: its width; 0 for what the file says.
    """
    key = "expert_shared_feed_forward_length"
    n_ff = n_ff or keys.integer(key, 0, MAX_WIDTH, default=0) or config.n_ff
    if "ffn_up_shexp.weight" not in w:
        return experts
    shared: Block = FeedForward.load(w, config, n_ff=n_ff, suffix="_shexp", scaled=scaled)
    if "ffn_gate_inp_shexp.weight" in w:
        shared = GatedBySigmoid(shared, w.row("ffn_gate_inp_shexp", config.n_embd))
    return Parallel([experts, shared])
