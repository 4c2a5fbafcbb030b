"""Operations on numbers one by one.

One is a class with `apply`, in expressions, and `formula`, the same in numpy; its base says what is
taken beside x: nothing (`Unary`), a y of the same shape (`Binary`), one of its own kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Kernel, Value
from linnet.kernels.ir.functions import GELU_SCALE, exp, gelu, sigmoid, tanh
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Array, Float, Float32s, Int, Int32s, Op, OpKernel

RUN = 256  # columns of a token in an item
SWIGLU_LIMIT, SWIGLU_ALPHA = 7.0, 1.702


class Elementwise(Op):
    """out = apply(x, ...), for all of x, out: f32 (n_tokens, width); an item is 256 columns.

    for token, run of columns in items:
        for column in run:  out[token][column] = apply(x[token][column], ...)
    """

    in_place = "x"

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return -(-sizes["width"] // RUN), 1

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 4, 4

    def strips(self, k: OpKernel, width: Value) -> Iterator[tuple[Value, Value, int]]:
        """A loop over the items' columns: (token, first of some columns, how many they are)."""
        n_runs = (width + (RUN - 1)) // RUN
        for item in k.items("run"):
            token, first = item // n_runs, item % n_runs * RUN
            for size, i in k.strips(k.minimum(width - first, RUN), (k.isa.lanes, 1)):
                yield token, first + i, size


class Unary(Elementwise):
    """out = apply(x)"""

    def emit(self, k: OpKernel, x: Float32s, out: Float32s, width: Int) -> None:
        for token, column, size in self.strips(k, width):
            at = token * width + column
            out.store(self.apply(k, x.load(at, size)), at)

    def apply(self, k: Kernel, x: Value) -> Value:
        raise NotImplementedError

    def reference(self, x: Array, out: Array, width: int) -> None:
        with np.errstate(over="ignore"):
            out[...] = self.formula(x.astype(np.float64))

    def formula(self, x: Array) -> Array:
        """`apply` in numpy, f64."""
        raise NotImplementedError


class Binary(Elementwise):
    """out = apply(x, y), y: f32 (n_tokens, width)"""

    def emit(self, k: OpKernel, x: Float32s, y: Float32s, out: Float32s, width: Int) -> None:
        for token, column, size in self.strips(k, width):
            at = token * width + column
            out.store(self.apply(k, x.load(at, size), y.load(at, size)), at)

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        raise NotImplementedError

    def reference(self, x: Array, y: Array, out: Array, width: int) -> None:
        with np.errstate(over="ignore"):
            out[...] = self.formula(x.astype(np.float64), y.astype(np.float64))

    def formula(self, x: Array, y: Array) -> Array:
        """`apply` in numpy, f64."""
        raise NotImplementedError


# ---- sums and products ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Add(Binary):
    """x + y"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return x + y

    def formula(self, x: Array, y: Array) -> Array:
        return x + y


@dataclass(frozen=True)
class AddRow(Add):
    """x + y, y: f32 (width,), the same for all tokens: a bias"""

    def emit(self, k: OpKernel, x: Float32s, y: Float32s, out: Float32s, width: Int) -> None:
        for token, column, size in self.strips(k, width):
            at = token * width + column
            out.store(x.load(at, size) + y.load(column, size), at)


@dataclass(frozen=True)
class Multiply(Binary):
    """x * y"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return x * y

    def formula(self, x: Array, y: Array) -> Array:
        return x * y


@dataclass(frozen=True)
class Scale(Elementwise):
    """x * y, with one number y for everything"""

    def emit(self, k: OpKernel, x: Float32s, y: Float, out: Float32s, width: Int) -> None:
        for token, column, size in self.strips(k, width):
            at = token * width + column
            out.store(x.load(at, size) * y, at)

    def reference(self, x: Array, y: float, out: Array, width: int) -> None:
        out[...] = x * np.float32(y)


@dataclass(frozen=True)
class ScaleRows(Elementwise):
    """x * y, y: f32 (n_tokens, 1)"""

    def emit(self, k: OpKernel, x: Float32s, y: Float32s, out: Float32s, width: Int) -> None:
        for token, column, size in self.strips(k, width):
            at = token * width + column
            out.store(x.load(at, size) * y.load(token), at)

    def reference(self, x: Array, y: Array, out: Array, width: int) -> None:
        out[...] = x * y.reshape(-1, 1)


@dataclass(frozen=True)
class ScaleByPosition(Elementwise):
    """x * y[position of the token], y: f32 (n_ctx,); positions: i32 (n_tokens,)"""

    picks = {"y": "positions"}

    def emit(
        self, k: OpKernel, x: Float32s, y: Float32s, positions: Int32s, out: Float32s, width: Int
    ) -> None:
        for token, column, size in self.strips(k, width):
            at = token * width + column
            out.store(x.load(at, size) * y.load(positions.index(token)), at)

    def reference(self, x: Array, y: Array, positions: Array, out: Array, width: int) -> None:
        out[...] = x * y[positions][:, None]


# ---- activation functions and gates --------------------------------------------------------------


@dataclass(frozen=True)
class Sigmoid(Unary):
    """1 / (1 + exp(-x))"""

    def apply(self, k: Kernel, x: Value) -> Value:
        return sigmoid(k, x)

    def formula(self, x: Array) -> Array:
        return _sigmoid(x)


@dataclass(frozen=True)
class Silu(Unary):
    """x / (1 + exp(-x))"""

    def apply(self, k: Kernel, x: Value) -> Value:
        return x * sigmoid(k, x)

    def formula(self, x: Array) -> Array:
        return x * _sigmoid(x)


@dataclass(frozen=True)
class Gelu(Unary):
    """gelu(x) = x / 2 * (1 + tanh(u)) = x / (1 + exp(-2u)), where
    u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""

    def apply(self, k: Kernel, x: Value) -> Value:
        return gelu(k, x)

    def formula(self, x: Array) -> Array:
        return _gelu(x)


@dataclass(frozen=True)
class SiluMultiply(Binary):
    """silu(x) * y = x / (1 + exp(-x)) * y, the gate of SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        # Below -87, where exp is bounded, silu is 0.
        gate = (x < -87.0).select(x * 0.0, x / (exp(k, -x) + 1.0))
        return gate * y

    def formula(self, x: Array, y: Array) -> Array:
        return x * _sigmoid(x) * y


@dataclass(frozen=True)
class GeluMultiply(Binary):
    """gelu(x) * y, the gate of GeGLU (Shazeer 2020, arXiv:2002.05202); gelu: see `Gelu`."""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return gelu(k, x) * y

    def formula(self, x: Array, y: Array) -> Array:
        return _gelu(x) * y


@dataclass(frozen=True)
class SigmoidMultiply(Binary):
    """sigmoid(x) * y = y / (1 + exp(-x)): a gate"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return sigmoid(k, x) * y

    def formula(self, x: Array, y: Array) -> Array:
        return _sigmoid(x) * y


@dataclass(frozen=True)
class ClampedSwiGlu(Binary):
    """g * sigmoid(1.702 g) * (u + 1), where g = min(x, 7) and u = clip(y, -7, 7) (gpt-oss)"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        gate = k.minimum(x, SWIGLU_LIMIT)
        up = k.minimum(k.maximum(y, -SWIGLU_LIMIT), SWIGLU_LIMIT)
        return gate * sigmoid(k, gate * SWIGLU_ALPHA) * (up + 1.0)

    def formula(self, x: Array, y: Array) -> Array:
        gate, up = np.minimum(x, SWIGLU_LIMIT), np.clip(y, -SWIGLU_LIMIT, SWIGLU_LIMIT)
        result: Array = gate * _sigmoid(SWIGLU_ALPHA * gate) * (up + 1)
        return result


@dataclass(frozen=True)
class SoftCap(Elementwise):
    """y * tanh(x / y), from -y to y, with one number y for everything (arXiv:2408.00118)"""

    def emit(self, k: OpKernel, x: Float32s, y: Float, out: Float32s, width: Int) -> None:
        for token, column, size in self.strips(k, width):
            at = token * width + column
            out.store(tanh(k, x.load(at, size) / y) * y, at)

    def reference(self, x: Array, y: float, out: Array, width: int) -> None:
        out[...] = y * np.tanh(x.astype(np.float64) / y)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _gelu(x: Array) -> Array:
    u = GELU_SCALE * (x + 0.044715 * x**3)
    return x * _sigmoid(2 * u)  # 1 + tanh(u) would cancel out
