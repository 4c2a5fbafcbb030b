"""Products with the packed weights of the experts that were chosen, and of no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from linnet.kernels.ir import Pointer, Value, f32, i64
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import (
    ALL_ROWS,
    Array,
    Float32s,
    Int,
    Int32s,
    Int64s,
    Numbers,
    Op,
    OpKernel,
)
from linnet.kernels.ops.work import Work
from linnet.kernels.products.activations import Doubles, Quantize, packed_bytes
from linnet.kernels.products.base import Product
from linnet.kernels.products.matvec import FloatMatVec, Gemv, MatVec, rows_at_a_time
from linnet.kernels.quants import QuantType, WeightType
from linnet.kernels.quants.packed_rows import row_stride

TOGETHER = 8  # products that share an expert's unpacked rows
WORTH_COPYING = 2  # products; so few are made one by one
ROWS = 128  # of weights, whose results are copied at a time
Rows = tuple[Value, Value]  # of a matrix: the first, and the end


@dataclass(frozen=True)
class ExpertProduct(Product):
    """out[t][j] = weights[experts[t][j]] @ x for the experts of each token t.

    weights: packed (n_experts, n_out, row_bytes), `expert_bytes` from one expert to the next;
    experts: i32 (n_tokens, n_used), with `order` and `starts` of `GroupByExpert`; out: f32
    (n_tokens, n_used, n_out). Rows of x: one for every `n_sharing` products that follow each other.
    """

    n_columns: int  # as the step says, too

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return rows_at_a_time(self.type, isa, self.n_columns)

    def read(self, n_rows: int, *, weights: Any, n_used: Any = 1, **_: Any) -> Array:
        """The matrices of as many experts as there are if no two rows choose the same."""
        matrices: Array = weights[: n_rows * n_used]
        return matrices

    @property
    def x_bytes(self) -> int:
        """What a row of x takes."""
        return 4 * self.n_columns if self.packing is None else int(packed_bytes(self.n_columns))

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


@dataclass(frozen=True, slots=True)
class Places:
    """Where the x and the out of each product lie; products are numbered as in out."""

    x: Pointer
    out: Float32s
    n_out: Value
    n_sharing: Value
    x_bytes: int

    def x_of(self, product: Value) -> Pointer:
        return self.x.at(product // self.n_sharing * self.x_bytes)

    def out_of(self, product: Value) -> Numbers:
        return self.out.at(product * self.n_out)


@dataclass(frozen=True)
class FloatExpertLinear(ExpertProduct):
    """Each product alone, with x in f32; an item is a row of one product.

    for product t, j of which items has rows:
        for row of these:
            out[t][j][row] = weights[experts[t][j]][row] @ x[product / n_sharing]
    """

    gemv: ClassVar[Callable[..., Gemv]] = FloatMatVec

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        return self if n_rows is not None else GroupedLinear(self.type, self.n_columns, self)

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_used"] * sizes["n_out"], 1

    def emit(
        self, k: OpKernel, weights: Pointer, x: Pointer, out: Float32s, n_columns: Int, n_out: Int,
        experts: Int32s, order: Int32s, starts: Int64s, n_experts: Int, n_used: Int,
        n_sharing: Int, expert_bytes: Int,
    ) -> None:  # fmt: skip
        places = Places(x, out, n_out, n_sharing, self.x_bytes)
        for product, rows in by_matrix(k, n_out, "product"):
            matrix = weights.at(experts.index(product) * expert_bytes)
            self.multiply(k, matrix, places, product, n_columns, rows)

    def multiply(
        self, k: OpKernel, matrix: Pointer, places: Places, product: Value, n_columns: Value,
        rows: Rows,
    ) -> None:  # fmt: skip
        """Some rows of one product with an expert's matrix."""
        gemv, row_bytes = self.gemv(self.type, 1), row_stride(self.type, n_columns)
        x, out, (start, end) = places.x_of(product), places.out_of(product), rows
        for row in k.range(end, start, name="row"):
            (total,) = gemv.multiply(k, matrix.at(row * row_bytes), x, n_columns)
            out.store(total.sum(), row)


@dataclass(frozen=True)
class ExpertLinear(FloatExpertLinear):
    """The same with x packed by `Quantize`."""

    packing = Quantize()
    gemv = MatVec

    @staticmethod
    def of(type: WeightType, n_columns: int, *, activations: str) -> ExpertProduct:
        """With x packed; in f32 for "f32" `activations`, and for weights that are numbers."""
        packed = isinstance(type, QuantType) and activations != "f32"
        return (ExpertLinear if packed else FloatExpertLinear)(type, n_columns)


@dataclass(frozen=True)
class GroupedLinear(ExpertProduct):
    """What `single` computes, eight products of an expert at a time; an item is a row of an expert.

    A row of weights is unpacked once for eight products, and each comes out as it would alone.

        for expert of which items has rows:
            for eight of its products:
                copy their x side by side
                for 128 of the rows:
                    results = GEMV of weights[expert][rows] and the eight
                    out[product][rows] = results[product], for each of the eight
    """

    single: FloatExpertLinear

    @property
    def symbol(self) -> str:
        return f"grouped_{self.single.symbol}"

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_experts"] * sizes["n_out"], ALL_ROWS

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return TOGETHER * (self.single.x_bytes + 4 * ROWS)

    def emit(
        self, k: OpKernel, weights: Pointer, x: Pointer, out: Float32s, n_columns: Int, n_out: Int,
        experts: Int32s, order: Int32s, starts: Int64s, n_experts: Int, n_used: Int,
        n_sharing: Int, expert_bytes: Int,
    ) -> None:  # fmt: skip
        places = Places(x, out, n_out, n_sharing, self.single.x_bytes)
        for expert, rows in by_matrix(k, n_out, "expert"):
            matrix = weights.at(expert * expert_bytes)
            start, end = starts.index(expert), starts.index(expert + 1)
            for first in k.range(end, start, TOGETHER, name="products"):
                count, products = k.minimum(end - first, TOGETHER), order.at(first)
                with k.when(count > WORTH_COPYING):
                    self._together(k, matrix, places, products, count, n_columns, rows)
                with k.when(count <= WORTH_COPYING):
                    for i in k.range(count, name="product"):
                        product = products.index(i)
                        self.single.multiply(k, matrix, places, product, n_columns, rows)

    def _together(
        self, k: OpKernel, matrix: Pointer, places: Places, products: Int32s, count: Value,
        n_columns: Value, rows: Rows,
    ) -> None:  # fmt: skip
        """Some rows of `count` of `products`, up to eight; the last one fills up the eight."""
        x, x_bytes, (start, end) = k.scratch, places.x_bytes, rows
        results = Numbers(x.at(TOGETHER * x_bytes), f32)  # (TOGETHER, ROWS)
        for i in k.range(TOGETHER, name="copy"):
            source = places.x_of(products.index(k.minimum(i, count - 1)))
            target = Numbers(x.at(i * x_bytes), f32)
            _copy(k, Numbers(source, f32), target, k.constant(i64, x_bytes // 4))
        gemv, row_bytes = self.single.gemv(self.type, TOGETHER), row_stride(self.type, n_columns)
        for first in k.range(end, start, ROWS, name="rows"):
            n_rows = k.minimum(end - first, ROWS)
            for i in k.range(n_rows, name="row"):
                sums = gemv.multiply(k, matrix.at((first + i) * row_bytes), x, n_columns)
                for place, total in enumerate(sums):
                    results.store(total.sum(), i + ROWS * place)
            for i in k.range(count, name="copy"):
                target = places.out_of(products.index(i)).at(first)
                _copy(k, results.at(i * ROWS), target, n_rows)

    def times(self, x: Array, weights: Array, n_columns: int) -> Doubles:
        return self.single.times(x, weights, n_columns)


def by_matrix(k: OpKernel, n_out: Value, name: str) -> Iterator[tuple[Value, Rows]]:
    """The matrices, of `n_out` rows each, that this call's items have rows of, and which rows."""
    for matrix in k.range((k.last + (n_out - 1)) // n_out, k.first // n_out, name=name):
        start = matrix * n_out
        yield matrix, (k.maximum(k.first - start, 0), k.minimum(k.last - start, n_out))


def _copy(k: OpKernel, source: Numbers, target: Numbers, n: Value) -> None:
    """n numbers."""
    for size, i in k.strips(n, (k.isa.lanes, 1)):
        target.store(source.load(i, size), i)
