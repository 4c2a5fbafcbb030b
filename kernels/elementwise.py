"""Operations on numbers one by one; an item is a run of 256 columns of one token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Kernel, Value, f32, i32, i64, pointer
from linnet.kernels.op import Op, OpKernel

RUN = 256


@dataclass(frozen=True)
class Elementwise(Op):
    """out = apply(x, y), for all of (n_tokens, width)."""

    parameters = {"x": pointer, "y": pointer, "out": pointer, "width": i64}

    def emit(self, k: OpKernel, **a: Any) -> None:
        runs = (a["width"] + (RUN - 1)) // RUN
        for item in k.items("run"):
            first = item % runs * RUN
            start = item // runs * a["width"] + first
            count = k.minimum(a["width"] - first, RUN)
            for size, i in k.strips(count, (k.isa.lanes, 1)):
                at = (start + i) * 4
                x, y = a["x"].load(f32[size], at), a["y"].load(f32[size], at)
                a["out"].store(self.apply(k, x, y), at)

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        raise NotImplementedError


@dataclass(frozen=True)
class Add(Elementwise):
    """x + y"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return x + y

    def reference(self, **a: Any) -> None:
        a["out"][...] = a["x"] + a["y"]


@dataclass(frozen=True)
class SiluMultiply(Elementwise):
    """silu(x) * y = x / (1 + exp(-x)) * y, the gate of SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return x / (exp(k, -x) + 1.0) * y

    def reference(self, **a: Any) -> None:
        x = a["x"].astype(np.float64)
        with np.errstate(over="ignore"):
            a["out"][...] = x / (1 + np.exp(-x)) * a["y"]


# exp(r) = 1 + r + r^2 * p(r) for |r| <= ln(2) / 2, to 2 units in the last place (Cephes, expf)
EXP_POLYNOMIAL = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5,
)  # fmt: skip
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # their sum is ln(2); the first is exact in 10 bits


def exp(k: Kernel, x: Value) -> Value:
    """e to the power of each lane; below -87 and above 88 as if at those bounds; NaN stays NaN."""
    bounded = k.minimum(k.maximum(x, -87.0), 88.0)
    # As in Quantize: adding 1.5 * 2^23 rounds to an integer, found in the low bits.
    shifted = bounded * 1.44269504 + 12582912.0
    power = shifted - 12582912.0
    rest = k.fma(power, k.constant(x.type, -LN2_HIGH), bounded)
    rest = k.fma(power, k.constant(x.type, -LN2_LOW), rest)
    series = polynomial(k, rest, EXP_POLYNOMIAL)
    series = k.fma(rest * rest, series, rest) + 1.0
    whole = i32[x.type.lanes]
    two_to_power = ((shifted.bits(whole) - (0x4B400000 - 127)) << 23).bits(x.type)
    return series * two_to_power


def polynomial(k: Kernel, x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's rule, highest power first."""
    total = k.constant(x.type, coefficients[0])
    for coefficient in coefficients[1:]:
        total = k.fma(total, x, k.constant(x.type, coefficient))
    return total
