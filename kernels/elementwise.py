"""Operations on numbers one by one; an item is a run of 256 columns of one token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Kernel, Type, Value, f32, i32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.op import Op, OpKernel

RUN = 256
GELU_SCALE = math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class Elementwise(Op):
    """out = apply(x, y), for all of (n_tokens, width)."""

    parameters = {"x": pointer, "y": pointer, "out": pointer, "width": i64}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return -(-sizes["width"] // RUN), 1

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 4, 4

    def emit(self, k: OpKernel, **a: Any) -> None:
        runs = (a["width"] + (RUN - 1)) // RUN
        for item in k.items("run"):
            token, first = item // runs, item % runs * RUN
            count = k.minimum(a["width"] - first, RUN)
            for size, i in k.strips(count, (k.isa.lanes, 1)):
                column = first + i
                at = (token * a["width"] + column) * 4
                x = a["x"].load(f32[size], at)
                a["out"].store(self.apply(k, x, self.second(a, f32[size], token, column)), at)

    def second(self, a: dict[str, Any], type: Type, token: Value, column: Value) -> Value:
        """The other operand, for the x of these columns."""
        at = (token * a["width"] + column) * 4
        return a["y"].load(type, at)  # type: ignore[no-any-return]

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
class AddRow(Add):
    """x + y, with one y (width,) for all tokens: a bias"""

    def second(self, a: dict[str, Any], type: Type, token: Value, column: Value) -> Value:
        return a["y"].load(type, column * 4)  # type: ignore[no-any-return]


class WithNumber(Elementwise):
    """One number y for everything."""

    parameters = {"x": pointer, "y": f32, "out": pointer, "width": i64}

    def second(self, a: dict[str, Any], type: Type, token: Value, column: Value) -> Value:
        return a["y"]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Scale(WithNumber):
    """x * y, with one number y for everything"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return x * y

    def reference(self, **a: Any) -> None:
        a["out"][...] = a["x"] * np.float32(a["y"])


@dataclass(frozen=True)
class ScaleByPosition(Elementwise):
    """x * y[position of the token], with one y for each of n_ctx positions"""

    parameters = {"x": pointer, "y": pointer, "positions": pointer, "out": pointer, "width": i64}

    def second(self, a: dict[str, Any], type: Type, token: Value, column: Value) -> Value:
        position = a["positions"].load(i32, token * 4).to(i64)
        return a["y"].load(f32, position * 4)  # type: ignore[no-any-return]

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return x * y

    def reference(self, **a: Any) -> None:
        a["out"][...] = a["x"] * a["y"][a["positions"]][:, None]


@dataclass(frozen=True)
class SiluMultiply(Elementwise):
    """silu(x) * y = x / (1 + exp(-x)) * y, the gate of SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        # Far below zero exp is bounded, and what is left of x is nothing.
        gate = (x < -87.0).select(x * 0.0, x / (exp(k, -x) + 1.0))
        return gate * y

    def reference(self, **a: Any) -> None:
        x = a["x"].astype(np.float64)
        with np.errstate(over="ignore"):
            a["out"][...] = x / (1 + np.exp(-x)) * a["y"]


@dataclass(frozen=True)
class GeluMultiply(Elementwise):
    """gelu(x) * y, the gate of GeGLU (Shazeer 2020, arXiv:2002.05202).

    gelu(x) = x / 2 * (1 + tanh(u)) = x / (1 + exp(-2u)), where u = sqrt(2 / pi) (x + 0.044715 x^3)
    (Hendrycks and Gimpel 2016, arXiv:1606.08415).
    """

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        u = x * k.fma(x * x, k.constant(x.type, 0.044715), k.constant(x.type, 1))
        twice = u * (2 * GELU_SCALE)
        gate = (twice < -87.0).select(x * 0.0, x / (exp(k, -twice) + 1.0))
        return gate * y

    def reference(self, **a: Any) -> None:
        x = a["x"].astype(np.float64)
        u = GELU_SCALE * (x + 0.044715 * x**3)
        a["out"][...] = x / 2 * (1 + np.tanh(u)) * a["y"]


@dataclass(frozen=True)
class SoftCap(WithNumber):
    """y * tanh(x / y), with one y for everything: what stays within -y and y (arXiv:2408.00118)"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return tanh(k, x / y) * y

    def reference(self, **a: Any) -> None:
        a["out"][...] = a["y"] * np.tanh(a["x"].astype(np.float64) / a["y"])


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


# tanh(x) = x + x^3 * p(x^2) for |x| < 0.625 (Cephes, tanhf)
TANH_POLYNOMIAL = (
    -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1,
)  # fmt: skip


def tanh(k: Kernel, x: Value) -> Value:
    """The hyperbolic tangent of each lane; NaN stays NaN."""
    square = x * x
    near_zero = k.fma(polynomial(k, square, TANH_POLYNOMIAL) * square, x, x)
    far = 1.0 - 2.0 / (exp(k, k.maximum(x, -x) * 2.0) + 1.0)
    far = (x < 0.0).select(-far, far)
    return (square < 0.625 * 0.625).select(near_zero, far)


def polynomial(k: Kernel, x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's rule, highest power first."""
    total = k.constant(x.type, coefficients[0])
    for coefficient in coefficients[1:]:
        total = k.fma(total, x, k.constant(x.type, coefficient))
    return total
