"""Normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Value, f32
from linnet.kernels.isa import ISA
from linnet.kernels.ops.accumulators import Accumulators
from linnet.kernels.ops.base import Array, Float, Float32s, Int, Op, OpKernel


@dataclass(frozen=True)
class RmsNorm(Op):
    """out = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv:1910.07467).

    x, out: f32 (rows, width); weight: f32 (width,); an item is a row.

        for row in items:
            total = sum of x[row]^2
            out[row] = x[row] * (1 / sqrt(total / width + eps)) * weight

    NaN where the total leaves the range of f32.
    """

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["out"] // sizes["width"], 1

    def emit(
        self, k: OpKernel, x: Float32s, weight: Float32s, out: Float32s, width: Int, eps: Float
    ) -> None:
        sizes = k.isa.lanes, 1
        for row in k.items("row"):
            x_row, out_row = x.at(row * width), out.at(row * width)
            total = Accumulators(k)
            for size, i in k.strips(width, sizes):
                strip = x_row.load(i, size)
                total.add(strip, strip)
            scale = _one_over_root(k, total.sum() / width.to(f32), eps)
            for size, i in k.strips(width, sizes):
                out_row.store(x_row.load(i, size) * scale * weight.load(i, size), i)

    def reference(self, x: Array, weight: Array, out: Array, width: int, eps: float) -> None:
        rows = x.reshape(-1, width).astype(np.float64)
        scale = 1 / np.sqrt((rows * rows).mean(axis=-1, keepdims=True) + eps)
        out[...] = (rows * scale * weight).reshape(out.shape)


@dataclass(frozen=True)
class LayerNorm(Op):
    """out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias (Ba et al. 2016, arXiv:1607.06450).

    x, out: f32 (rows, width); weight, bias: f32 (n_weights, width), of which row r takes those
    numbered r % n_weights: the heads of a token have one each; an item is a row.

        for row in items:
            mean = sum of x[row] / width
            variance = sum of (x[row] - mean)^2 / width
            normal = (x[row] - mean) * (1 / sqrt(variance + eps))
            out[row] = normal * weight[row % n_weights] + bias[row % n_weights]

    NaN where the variance leaves the range of f32.
    """

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["out"] // sizes["width"], 1

    def emit(
        self, k: OpKernel, x: Float32s, weight: Float32s, bias: Float32s, out: Float32s,
        width: Int, n_weights: Int, eps: Float,
    ) -> None:  # fmt: skip
        sizes = k.isa.lanes, 1
        for row in k.items("row"):
            x_row, out_row = x.at(row * width), out.at(row * width)
            start = row % n_weights * width
            weight_row, bias_row = weight.at(start), bias.at(start)
            total = Accumulators(k)
            for size, i in k.strips(width, sizes):
                total.add(x_row.load(i, size), k.constant(f32[size], 1))
            mean = total.sum() / width.to(f32)
            squares = Accumulators(k)
            for size, i in k.strips(width, sizes):
                strip = x_row.load(i, size) - mean
                squares.add(strip, strip)
            scale = _one_over_root(k, squares.sum() / width.to(f32), eps)
            for size, i in k.strips(width, sizes):
                normal = (x_row.load(i, size) - mean) * scale
                out_row.store(normal * weight_row.load(i, size) + bias_row.load(i, size), i)

    def reference(
        self, x: Array, weight: Array, bias: Array, out: Array,
        width: int, n_weights: int, eps: float,
    ) -> None:  # fmt: skip
        rows = x.reshape(-1, n_weights, width).astype(np.float64)
        normal = rows - rows.mean(axis=-1, keepdims=True)
        normal = normal / np.sqrt(rows.var(axis=-1, keepdims=True) + eps)
        weights, biases = weight.reshape(n_weights, width), bias.reshape(n_weights, width)
        out[...] = (normal * weights + biases).reshape(out.shape)


def _one_over_root(k: OpKernel, mean: Value, eps: Value) -> Value:
    """1 / sqrt(mean + eps); NaN for a mean of squares that has left the range of f32, of which
    1 / inf would make zeros that nobody would notice."""
    return 1.0 / k.square_root(mean + eps) + (mean - mean)
