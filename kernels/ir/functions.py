"""Functions of numbers, lane by lane, in multiply-adds: LLVM would call a library for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from linnet.kernels.ir import Kernel, Value, f32, i32

GELU_SCALE = math.sqrt(2 / math.pi)

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


def exp_or_zero(k: Kernel, x: Value) -> Value:
    """e to the power of x <= 0, and exactly 0 where that is below 1e-37."""
    return (x < -87.0).select(k.constant(x.type, 0), exp(k, x))


def gelu(k: Kernel, x: Value) -> Value:
    """x / (1 + exp(-2u)) of each lane: see `Gelu`."""
    u = x * k.fma(x * x, k.constant(x.type, 0.044715), k.constant(x.type, 1))
    twice = u * (2 * GELU_SCALE)
    return (twice < -87.0).select(x * 0.0, x / (exp(k, -twice) + 1.0))


def sigmoid(k: Kernel, x: Value) -> Value:
    """1 / (1 + e^-x) of each lane, 0 below -87; NaN stays NaN."""
    return (x < -87.0).select(k.constant(x.type, 0), 1.0 / (exp(k, -x) + 1.0))


# log(1 + f) = f - f^2 / 2 + f^3 * p(f) for 1 + f from sqrt(1/2) to sqrt(2) (Cephes, logf)
LOG_POLYNOMIAL = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
HALF_ROOT_BITS = 0x3F3504F3  # sqrt(1/2)


def log(k: Kernel, x: Value) -> Value:
    """The natural logarithm of each lane, all positive, normal and finite."""
    bits = x.bits(i32[x.type.lanes])
    exponent = (bits - HALF_ROOT_BITS) >> 23
    f = (bits - (exponent << 23)).bits(x.type) - 1.0
    square, power = f * f, exponent.to(f32)
    series = polynomial(k, f, LOG_POLYNOMIAL) * f * square
    series = k.fma(power, k.constant(x.type, LN2_LOW), series) - square * 0.5
    return k.fma(power, k.constant(x.type, LN2_HIGH), f + series)


def softplus(k: Kernel, x: Value) -> Value:
    """log(1 + e^x) of each lane; NaN stays NaN.

    log(1 + t) of what is left of 1 + t after rounding, scaled back to t, is exact to the last bits.
    """
    positive = (x > 0.0).select(x, 0.0)
    small = exp(k, (x > 0.0).select(-x, x))
    rounded = small + 1.0
    lost = rounded.equals(1.0).select(k.constant(x.type, 1), rounded - 1.0)
    tail = rounded.equals(1.0).select(small, log(k, rounded) * (small / lost))
    return positive + tail


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
