"""What products with packed weights have in common, whatever kernel computes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from linnet.kernels.ir import Value
from linnet.kernels.ops.base import Array, Op, OpKernel
from linnet.kernels.ops.peak import Peak, PeakDot, PeakFMA
from linnet.kernels.ops.work import Work
from linnet.kernels.products.activations import Doubles, Packing
from linnet.kernels.quants import QuantType, WeightType

Rows = tuple[Value, Value]  # of a matrix: the first, and the end


@dataclass(frozen=True)
class Product(Op):
    """An op that multiplies activations by packed weights of a `type`.

    `packing`: the op that writes x as this one reads it; None where x is f32.
    """

    type: WeightType

    packing: ClassVar[Packing | None] = None

    @property
    def peak(self) -> Peak:
        """The instruction that it is made of."""
        if self.packing is None or not isinstance(self.type, QuantType):
            return PeakFMA()
        return PeakDot(self.type.largest)

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


@dataclass(frozen=True)
class ExpertProduct(Product):
    """out[t][j] = weights[experts[t][j]] @ x for the experts of each token t.

    weights: packed (n_experts, n_out, row_bytes), `expert_bytes` from one expert to the next;
    experts: i32 (n_tokens, n_used), with `order` and `starts` of `GroupByExpert`; out: f32
    (n_tokens, n_used, n_out). Rows of x: one for every `n_sharing` products that follow each other.
    """

    n_columns: int  # as the step says, too

    @property
    def peak(self) -> Peak:
        """The instruction that it is made of."""
        if self.packing is None or not isinstance(self.type, QuantType):
            return PeakFMA()
        return PeakDot(self.type.largest)

    def read(self, n_rows: int, *, weights: Any, n_used: Any = 1, **_: Any) -> Array:
        """The matrices of as many experts as there are if no two rows choose the same."""
        matrices: Array = weights[: n_rows * n_used]
        return matrices

    def reference(
        self, *, weights: Array, x: Array, out: Array, n_columns: int, n_out: int, experts: Array,
        n_sharing: int, **_: Any,
    ) -> None:  # fmt: skip
        results = out.reshape(-1, n_out)
        rows = x.reshape(len(results) // n_sharing, 1, -1)
        for i, expert in enumerate(experts.reshape(-1)):
            results[i] = self.times(rows[i // n_sharing], weights[expert], n_columns)

    def work(
        self, *, weights: Array, n_columns: int, n_out: int, experts: Array, n_used: int, **_: Any
    ) -> Work:
        """Two operations for each weight of a product; `read` says which weights are read."""
        n_bytes = self.read(len(experts), weights=weights, n_used=n_used).nbytes
        return Work(2 * experts.size * n_out * n_columns, n_bytes)


def by_matrix(k: OpKernel, n_out: Value, name: str) -> Iterator[tuple[Value, Rows]]:
    """The matrices, of `n_out` rows each, that this call's items have rows of, and which rows."""
    for matrix in k.range((k.last + (n_out - 1)) // n_out, k.first // n_out, name=name):
        start = matrix * n_out
        yield matrix, (k.maximum(k.first - start, 0), k.minimum(k.last - start, n_out))
