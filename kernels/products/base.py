"""What products with packed weights have in common, whatever kernel computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from linnet.kernels.ops.base import Array, Op
from linnet.kernels.ops.work import Work
from linnet.kernels.products.activations import Doubles, Packing
from linnet.kernels.quants import WeightType


@dataclass(frozen=True)
class Product(Op):
    """An op that multiplies activations by packed weights of a `type`.

    `packing`: the op that writes x as this one reads it; None where x is f32.
    """

    type: WeightType

    packing: ClassVar[Packing | None] = None

    def read(self, n_rows: int, *, weights: Any, **_: Any) -> Array:
        """The part of `weights` that a pass of `n_rows` rows, at least one, reads."""
        matrix: Array = weights
        return matrix

    def times(self, x: Array, weights: Array, n_columns: int) -> Doubles:
        """x (n_rows, n_columns), packed as `packing` says, @ packed weights.T, in float64."""
        values = x if self.packing is None else self.packing.values(x, n_columns)
        product: Doubles = values.astype(np.float64) @ self.type.dequantize(weights).T
        return product


@dataclass(frozen=True)
class MatrixProduct(Product):
    """out (n_rows, n_out) = x (n_rows, n_columns) @ weights.T, by one matrix for all rows.

    weights: packed (n_out, row_bytes); x: as `packing` says; out: f32.
    """

    def reference(self, weights: Array, x: Array, out: Array, n_columns: int, n_out: int) -> None:
        out[...] = self.times(x, weights, n_columns)

    def work(self, weights: Array, x: Array, out: Array, n_columns: int, n_out: int) -> Work:
        """Weights are read once for all rows; activations, which caches hold, are not counted."""
        return Work(2 * len(x) * n_out * n_columns, weights.nbytes if len(x) else 0)
