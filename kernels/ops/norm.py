"""Normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Value, f32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Op, OpKernel
from linnet.kernels.products.matvec import Accumulators


@dataclass(frozen=True)
class RmsNorm(Op):
    """out = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv:1910.07467).

    x, out: f32 (rows, width); weight: f32 (width,); an item is a row.

        for row in items:
            total = sum of x[row]^2
            out[row] = x[row] * (1 / sqrt(total / width + eps)) * weight

    NaN where the total leaves the range of f32.
    """

    parameters = {"x": pointer, "weight": pointer, "out": pointer, "width": i64, "eps": f32}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["out"] // sizes["width"], 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        width, sizes = a["width"], (k.isa.lanes, 1)
        for row in k.items("row"):
            x, out = (a[name].at(row * width * 4) for name in ("x", "out"))
            total = Accumulators(k)
            for size, i in k.strips(width, sizes):
                strip = x.load(f32[size], i * 4)
                total.add(strip, strip)
            scale = _one_over_root(k, total.sum() / width.to(f32), a["eps"])
            for size, i in k.strips(width, sizes):
                normal = x.load(f32[size], i * 4) * scale
                out.store(normal * a["weight"].load(f32[size], i * 4), i * 4)

    def reference(self, **a: Any) -> None:
        x = a["x"].reshape(-1, a["width"]).astype(np.float64)
        scale = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + a["eps"])
        a["out"][...] = (x * scale * a["weight"]).reshape(a["out"].shape)


@dataclass(frozen=True)
class LayerNorm(Op):
    """out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias (Ba et al. 2016, arXiv:1607.06450).

    x, out: f32 (rows, width); weight, bias: f32 (n_weights, width), taken in turn by rows that
    follow each other, as the heads of a token do; an item is a row.

        for row in items:
            mean = sum of x[row] / width
            variance = sum of (x[row] - mean)^2 / width
            out[row] = (x[row] - mean) * (1 / sqrt(variance + eps)) * weight + bias

    NaN where the variance leaves the range of f32.
    """

    parameters = {
        "x": pointer,
        "weight": pointer,
        "bias": pointer,
        "out": pointer,
        "width": i64,
        "n_weights": i64,
        "eps": f32,
    }

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["out"] // sizes["width"], 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        width, sizes = a["width"], (k.isa.lanes, 1)
        for row in k.items("row"):
            x, out = (a[name].at(row * width * 4) for name in ("x", "out"))
            turn = row % a["n_weights"] * width * 4
            weight, bias = (a[name].at(turn) for name in ("weight", "bias"))
            total = Accumulators(k)
            for size, i in k.strips(width, sizes):
                total.add(x.load(f32[size], i * 4), k.constant(f32[size], 1))
            mean = total.sum() / width.to(f32)
            squares = Accumulators(k)
            for size, i in k.strips(width, sizes):
                strip = x.load(f32[size], i * 4) - mean
                squares.add(strip, strip)
            scale = _one_over_root(k, squares.sum() / width.to(f32), a["eps"])
            for size, i in k.strips(width, sizes):
                normal = (x.load(f32[size], i * 4) - mean) * scale
                scaled = normal * weight.load(f32[size], i * 4)
                out.store(scaled + bias.load(f32[size], i * 4), i * 4)

    def reference(self, **a: Any) -> None:
        shape = -1, a["n_weights"], a["width"]
        x = a["x"].reshape(shape).astype(np.float64)
        normal = x - x.mean(axis=-1, keepdims=True)
        normal = normal / np.sqrt(x.var(axis=-1, keepdims=True) + a["eps"])
        weight, bias = (a[name].reshape(shape[1:]) for name in ("weight", "bias"))
        a["out"][...] = (normal * weight + bias).reshape(a["out"].shape)


def _one_over_root(k: OpKernel, mean: Value, eps: Value) -> Value:
    """1 / sqrt(mean + eps); NaN for a mean of squares that has left the range of f32, of which
    1 / inf would make zeros that nobody would notice."""
    return 1.0 / k.square_root(mean + eps) + (mean - mean)
