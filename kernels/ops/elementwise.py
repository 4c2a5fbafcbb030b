"""Operations on numbers one by one; an item is a run of 256 columns of one token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Kernel, Type, Value, f32, i32, i64, pointer
from linnet.kernels.ir.functions import GELU_SCALE, exp, gelu, sigmoid, tanh
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Op, OpKernel

RUN = 256
SWIGLU_LIMIT, SWIGLU_ALPHA = 7.0, 1.702


@dataclass(frozen=True)
class Elementwise(Op):
    """out = apply(x, y), for all of (n_tokens, width)."""

    parameters = {"x": pointer, "y": pointer, "out": pointer, "width": i64}
    in_place = "x"

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


class Unary(Elementwise):
    """One operand alone."""

    parameters = {"x": pointer, "out": pointer, "width": i64}

    def second(self, a: dict[str, Any], type: Type, token: Value, column: Value) -> Value:
        return column


@dataclass(frozen=True)
class Multiply(Elementwise):
    """x * y"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return x * y

    def reference(self, **a: Any) -> None:
        a["out"][...] = a["x"] * a["y"]


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
class ScaleRows(Multiply):
    """x * y, with one y for each row"""

    def second(self, a: dict[str, Any], type: Type, token: Value, column: Value) -> Value:
        return a["y"].load(f32, token * 4)  # type: ignore[no-any-return]

    def reference(self, **a: Any) -> None:
        a["out"][...] = a["x"] * a["y"].reshape(-1, 1)


@dataclass(frozen=True)
class ScaleByPosition(Multiply):
    """x * y[position of the token], with one y for each of n_ctx positions"""

    parameters = {"x": pointer, "y": pointer, "positions": pointer, "out": pointer, "width": i64}

    def second(self, a: dict[str, Any], type: Type, token: Value, column: Value) -> Value:
        position = a["positions"].load(i32, token * 4).to(i64)
        return a["y"].load(f32, position * 4)  # type: ignore[no-any-return]

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
        return gelu(k, x) * y

    def reference(self, **a: Any) -> None:
        x = a["x"].astype(np.float64)
        u = GELU_SCALE * (x + 0.044715 * x**3)
        with np.errstate(over="ignore"):
            a["out"][...] = x / (1 + np.exp(-2 * u)) * a["y"]  # 1 + tanh(u) would cancel out


@dataclass(frozen=True)
class Gelu(Unary):
    """gelu(x), as in `GeluMultiply`"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return gelu(k, x)

    def reference(self, **a: Any) -> None:
        GeluMultiply().reference(**a, y=1.0)


@dataclass(frozen=True)
class Silu(Unary):
    """x / (1 + exp(-x))"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return x * sigmoid(k, x)

    def reference(self, **a: Any) -> None:
        x = a["x"].astype(np.float64)
        with np.errstate(over="ignore"):
            a["out"][...] = x / (1 + np.exp(-x))


@dataclass(frozen=True)
class Sigmoid(Unary):
    """1 / (1 + exp(-x))"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return sigmoid(k, x)

    def reference(self, **a: Any) -> None:
        with np.errstate(over="ignore"):
            a["out"][...] = 1 / (1 + np.exp(-a["x"].astype(np.float64)))


@dataclass(frozen=True)
class SigmoidMultiply(Elementwise):
    """sigmoid(x) * y = y / (1 + exp(-x)): a gate"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return sigmoid(k, x) * y

    def reference(self, **a: Any) -> None:
        x = a["x"].astype(np.float64)
        with np.errstate(over="ignore"):
            a["out"][...] = 1 / (1 + np.exp(-x)) * a["y"]


@dataclass(frozen=True)
class ClampedSwiGlu(Elementwise):
    """g * sigmoid(1.702 g) * (u + 1), where g is x up to 7 and u is y from -7 to 7 (gpt-oss)"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        gate = k.minimum(x, SWIGLU_LIMIT)
        up = k.minimum(k.maximum(y, -SWIGLU_LIMIT), SWIGLU_LIMIT)
        return gate * sigmoid(k, gate * SWIGLU_ALPHA) * (up + 1.0)

    def reference(self, **a: Any) -> None:
        gate = np.minimum(a["x"].astype(np.float64), SWIGLU_LIMIT)
        up = np.clip(a["y"].astype(np.float64), -SWIGLU_LIMIT, SWIGLU_LIMIT)
        with np.errstate(over="ignore"):
            a["out"][...] = gate / (1 + np.exp(-SWIGLU_ALPHA * gate)) * (up + 1)


@dataclass(frozen=True)
class SoftCap(WithNumber):
    """y * tanh(x / y), with one y for everything: what stays within -y and y (arXiv:2408.00118)"""

    def apply(self, k: Kernel, x: Value, y: Value) -> Value:
        return tanh(k, x / y) * y

    def reference(self, **a: Any) -> None:
        a["out"][...] = a["y"] * np.tanh(a["x"].astype(np.float64) / a["y"])
