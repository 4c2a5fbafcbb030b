"""The parts that transformers are made of, written once: norms, residuals, feed-forward networks.

A block takes x (n_tokens, n_embd) to as many numbers; it records its steps with the words of
`Graph`. How a file's tensors make it up is in its `load`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from linnet.kernels.ops.elementwise import Elementwise, Sigmoid, SiluMultiply, Unary
from linnet.kernels.runtime.program import Buffer
from linnet.models.parts.config import Config
from linnet.models.parts.graph import Graph
from linnet.models.parts.weights import Floats, Matrix, Weights

MULTIPLIED_BY_SILU = SiluMultiply()


class Block(Protocol):
    """x (n_tokens, n_embd) -> (n_tokens, n_embd)"""

    def record(self, g: Graph, x: Buffer) -> Buffer: ...


@dataclass(frozen=True, slots=True, eq=False)
class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * weight, over as many columns as there are weights."""

    eps_key: ClassVar[str] = "attention.layer_norm_rms_epsilon"

    weight: Floats
    eps: float

    @classmethod
    def load(cls, w: Weights, name: str, config: Config, *shape: int) -> RmsNorm:
        """`shape`: that of the weights, (n_embd,) for none."""
        return cls(w.vector(f"{name}.weight", *(shape or (config.n_embd,))), config.norm_eps)

    def record(self, g: Graph, x: Buffer) -> Buffer:
        return g.rms_norm(x, self.weight, self.eps)


@dataclass(frozen=True, slots=True, eq=False)
class LayerNorm:
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over weight.shape[-1] columns."""

    eps_key: ClassVar[str] = "attention.layer_norm_epsilon"

    weight: Floats
    bias: Floats
    eps: float

    @classmethod
    def load(cls, w: Weights, name: str, config: Config, *shape: int) -> LayerNorm:
        """`shape`: that of the weights, (n_embd,) for none; the file may have no bias."""
        weight = w.vector(f"{name}.weight", *(shape or (config.n_embd,)))
        bias = w.optional(f"{name}.bias", *weight.shape)
        return cls(weight, np.zeros_like(weight) if bias is None else bias, config.norm_eps)

    def record(self, g: Graph, x: Buffer) -> Buffer:
        return g.layer_norm(x, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """x + scale * post_norm(block(norm(x))); each norm may be missing."""

    block: Block
    norm: Block | None = None
    post_norm: Block | None = None
    scale: float = 1.0

    def record(self, g: Graph, x: Buffer) -> Buffer:
        y = self.norm.record(g, x) if self.norm else x
        y = self.block.record(g, y)
        y = self.post_norm.record(g, y) if self.post_norm else y
        return g.add(x, g.scale(y, self.scale))


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Blocks one after the other."""

    blocks: Sequence[Block]

    def record(self, g: Graph, x: Buffer) -> Buffer:
        for block in self.blocks:
            x = block.record(g, x)
        return x


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """x times a number."""

    factor: float

    def record(self, g: Graph, x: Buffer) -> Buffer:
        return g.scale(x, self.factor)


@dataclass(frozen=True, slots=True, eq=False)
class Parallel:
    """The sum of what several blocks make of the same x."""

    blocks: Sequence[Block]

    def record(self, g: Graph, x: Buffer) -> Buffer:
        first, *others = (block.record(g, x) for block in self.blocks)
        for other in others:
            first = g.add(first, other)
        return first


@dataclass(frozen=True, slots=True, eq=False)
class FeedForward:
    """down(activation(gate(x), up(x))): SwiGLU and its kin (arXiv:2002.05202)."""

    gate: Matrix
    up: Matrix
    down: Matrix
    activation: Elementwise

    @classmethod
    def load(
        cls, w: Weights, config: Config, *, n_ff: int | None = None, suffix: str = "",
        activation: Elementwise = MULTIPLIED_BY_SILU, fused: bool = False, scaled: bool = False,
    ) -> FeedForward:  # fmt: skip
        """`n_ff`: its width, where it is not the model's; `suffix`: what its tensors end in;
        `fused`: the first half of `ffn_up` is the gate; `scaled`: the architecture has scales here.
        """
        n_ff, n_embd = n_ff or config.n_ff, config.n_embd
        scales = {"scaled": scaled, "scale_after_bias": True}
        down = w.matrix(f"ffn_down{suffix}", n_embd, n_ff, **scales)
        if fused:
            gate, up = w.matrix(f"ffn_up{suffix}", 2 * n_ff, n_embd, **scales).split(n_ff, n_ff)
        else:
            gate = w.matrix(f"ffn_gate{suffix}", n_ff, n_embd, **scales)
            up = w.matrix(f"ffn_up{suffix}", n_ff, n_embd, **scales)
        return cls(gate, up, down, activation)

    def record(self, g: Graph, x: Buffer) -> Buffer:
        gate, up = g.linear(x, self.gate, self.up)
        (out,) = g.linear(g.combine(self.activation, gate, up), self.down)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Perceptron:
    """down(activation(up(x))), without a gate."""

    up: Matrix
    down: Matrix
    activation: Unary

    @classmethod
    def load(cls, w: Weights, config: Config, *, activation: Unary) -> Perceptron:
        n_ff, n_embd = config.n_ff, config.n_embd
        up = w.matrix("ffn_up", n_ff, n_embd, scaled=False)
        return cls(up, w.matrix("ffn_down", n_embd, n_ff, scaled=False), activation)

    def record(self, g: Graph, x: Buffer) -> Buffer:
        (up,) = g.linear(x, self.up)
        (out,) = g.linear(g.apply(self.activation, up), self.down)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class GatedBySigmoid:
    """block(x) * sigmoid(gate(x)), with one gate a token."""

    block: Block
    gate: Matrix

    def record(self, g: Graph, x: Buffer) -> Buffer:
        (gate,) = g.linear(x, self.gate)
        return g.scale_rows(self.block.record(g, x), g.apply(Sigmoid(), gate))
