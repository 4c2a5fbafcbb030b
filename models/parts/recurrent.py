"""Blocks that carry a state along the sequence: short convolutions and gated delta-nets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from linnet.kernels.ops.elementwise import Multiply, Sigmoid, Silu, SiluMultiply
from linnet.kernels.ops.recurrent import Decay, DeltaNet, ShortConvolution
from linnet.kernels.runtime.program import Buffer
from linnet.models.parts.config import MAX_HEAD_DIM, MAX_HEADS, MAX_WIDTH, Config, Keys
from linnet.models.parts.graph import Graph
from linnet.models.parts.weights import Floats, Matrix, Weights

MAX_KERNEL = 64


@dataclass(frozen=True, slots=True, eq=False)
class ShortConv:
    """output(c * convolution(b * x)) of three projections b, c and x (Liquid AI, LFM2)."""

    b: Matrix
    c: Matrix
    x: Matrix
    output: Matrix
    kernel: Floats  # (size, n_embd)

    @classmethod
    def load(cls, w: Weights, config: Config, keys: Keys) -> ShortConv:
        n, size = config.n_embd, keys.integer("shortconv.l_cache", 2, MAX_KERNEL)
        b, c, x = w.matrix("shortconv.in_proj", 3 * n, n).split(n, n, n)
        kernel = np.ascontiguousarray(w.vector("shortconv.conv.weight", n, size).T)
        return cls(b, c, x, w.matrix("shortconv.out_proj", n, n), kernel)

    def record(self, g: Graph, x: Buffer) -> Buffer:
        b, c, x = g.linear(x, self.b, self.c, self.x)
        y = short_convolution(g, g.combine(Multiply(), b, x), self.kernel)
        (out,) = g.linear(g.combine(Multiply(), c, y), self.output)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class GatedDeltaNet:
    """Linear attention by the gated delta rule, over convolved queries, keys and values.

    output(norm(delta_net(q, k, v)) * silu(gate)), arXiv:2412.06464 and Qwen3-Next.
    """

    q: Matrix
    k: Matrix
    v: Matrix
    gate: Matrix
    alpha: Matrix
    beta: Matrix
    output: Matrix
    kernels: tuple[Floats, Floats, Floats]  # (size, width) each, for q, k and v
    decay_bias: Floats  # (n_heads,)
    decay_rate: Floats
    norm: Floats  # (head_dim,)
    eps: float

    @classmethod
    def load(cls, w: Weights, config: Config, keys: Keys) -> GatedDeltaNet:
        head_dim = keys.integer("ssm.state_size", 1, MAX_HEAD_DIM)
        if head_dim % 16:  # of which kernels make whole vectors
            raise keys.error("ssm.state_size", head_dim, "a multiple of 16")
        n_heads = keys.integer("ssm.time_step_rank", 1, MAX_HEADS)
        n_k_heads = keys.integer("ssm.group_count", 1, n_heads)
        if n_heads % n_k_heads:
            raise keys.error("ssm.group_count", n_k_heads, f"a divisor of {n_heads} heads")
        n_v = keys.integer("ssm.inner_size", 1, MAX_WIDTH)
        if n_v != n_heads * head_dim:
            raise keys.error("ssm.inner_size", n_v, f"{n_heads} heads of {head_dim}")
        size = keys.integer("ssm.conv_kernel", 2, MAX_KERNEL)
        n_k, n_embd = n_k_heads * head_dim, config.n_embd
        q, k, v = w.matrix("attn_qkv", 2 * n_k + n_v, n_embd).split(n_k, n_k, n_v)
        kernel = w.vector("ssm_conv1d.weight", 2 * n_k + n_v, size)
        of_q, of_k, of_v = (
            np.ascontiguousarray(part.T) for part in np.split(kernel, [n_k, 2 * n_k])
        )
        return cls(
            q=q,
            k=k,
            v=v,
            gate=w.matrix("attn_gate", n_v, n_embd),
            alpha=w.matrix("ssm_alpha", n_heads, n_embd),
            beta=w.matrix("ssm_beta", n_heads, n_embd),
            output=w.matrix("ssm_out", n_embd, n_v),
            kernels=(of_q, of_k, of_v),
            decay_bias=w.vector("ssm_dt.bias", n_heads),
            decay_rate=w.vector("ssm_a", n_heads),
            norm=w.vector("ssm_norm.weight", head_dim),
            eps=config.norm_eps,
        )

    def record(self, g: Graph, x: Buffer) -> Buffer:
        q, k, v, gate, alpha, beta = g.linear(
            x, self.q, self.k, self.v, self.gate, self.alpha, self.beta
        )
        q, k, v = (
            g.apply(Silu(), short_convolution(g, y, kernel))
            for y, kernel in zip((q, k, v), self.kernels, strict=True)
        )
        head_dim = self.norm.size
        q = self._to_length(g, q, 1 / math.sqrt(head_dim))
        k = self._to_length(g, k, 1.0)
        decay = decay_of(g, alpha, self.decay_bias, self.decay_rate)
        y = delta_net(g, q, k, v, decay, g.apply(Sigmoid(), beta), head_dim=head_dim)
        y = g.rms_norm(y, self.norm, self.eps)
        (out,) = g.linear(g.combine(SiluMultiply(), gate, y), self.output)
        return out

    def _to_length(self, g: Graph, x: Buffer, length: float) -> Buffer:
        """x / sqrt(sum(x^2) + eps) * length for every head."""
        n = self.norm.size
        return g.rms_norm(x, np.full(n, length / math.sqrt(n), np.float32), self.eps / n)


def short_convolution(g: Graph, x: Buffer, kernel: Floats) -> Buffer:
    """Every column of x with those of the tokens before; kernel: (size, width)."""
    size, width = kernel.shape
    out = g.buffer("convolution", width)
    g.program.step(
        "convolve", ShortConvolution(size),
        x=x, kernel=kernel, state=g.state(size - 1, width), out=out, width=width,
        slots=g.program.slots, positions=g.program.positions,
    )  # fmt: skip
    return out


def decay_of(g: Graph, x: Buffer, bias: Floats, rate: Floats) -> Buffer:
    """exp(rate * softplus(x + bias))"""
    out = g.buffer("decay", x.width)
    g.program.step("decay", Decay(), x=x, bias=bias, rate=rate, out=out, width=x.width)
    return out


def delta_net(
    g: Graph, q: Buffer, k: Buffer, v: Buffer, decay: Buffer, beta: Buffer, *, head_dim: int
) -> Buffer:
    """The gated delta rule for every head: see `DeltaNet`."""
    out, n_heads = g.buffer("delta net", v.width), v.width // head_dim
    g.program.step(
        "delta net", DeltaNet(head_dim),
        queries=q, keys=k, values=v, decay=decay, beta=beta, out=out,
        state=g.state(n_heads, head_dim, head_dim),
        n_k_heads=k.width // head_dim, n_heads=n_heads,
        slots=g.program.slots, positions=g.program.positions,
    )  # fmt: skip
    return out
