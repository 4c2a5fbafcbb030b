"""GEMV: products with few rows of activations, as decoding has; weights are read once, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from linnet.kernels.ir import Pointer, Value
from linnet.kernels.isa import ISA
from linnet.kernels.ops.accumulators import Accumulators
from linnet.kernels.ops.base import ALL_ROWS, Float32s, Int, OpKernel
from linnet.kernels.products.activations import Quantize, Span
from linnet.kernels.products.base import MatrixProduct
from linnet.kernels.products.folds import Sums, add_spans
from linnet.kernels.products.interleave import GROUP, SPAN
from linnet.kernels.quants import QuantType, WeightType
from linnet.kernels.quants.blocks import Blocks
from linnet.kernels.quants.packed_rows import chunks, prefetch_ahead, row_stride

MOST_FOLDS = 8  # whose sums stay in registers, beside weights of two rows
Range = tuple[Value, Value]  # of rows: the first, and the end


@dataclass(frozen=True)
class Gemv(MatrixProduct):
    """out[t] = weights @ x[t] for `n_rows` tokens t; an item is a row of weights.

    for row in items:
        for chunk in weights[row]:
            add its products with x[t] to sums[t], for all tokens t
        out[t][row] = sum of sums[t]
    """

    n_rows: int

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_out"], ALL_ROWS

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return rows_at_a_time(self.type, isa, sizes["n_columns"])

    def emit(
        self, k: OpKernel, weights: Pointer, x: Pointer, out: Float32s, n_columns: Int, n_out: Int
    ) -> None:
        for row, products in self.products(k, weights, (k.first, k.last), x, n_columns):
            for token, product in enumerate(products):
                out.store(product, row + n_out * token)

    def products(
        self, k: OpKernel, weights: Pointer, rows: Range, x: Pointer, n_columns: Value
    ) -> Iterator[tuple[Value, list[Value]]]:
        """A loop over rows of a packed matrix: (row, its products with each token's x).

        One turn of the native loop may give several rows, and the last turns a row again.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class MatVec(Gemv):
    """GEMV with x packed by `Quantize`: products of bytes, summed as integers.

    for a, b in the first, the second half of items:      # two streams, each read in order
        for span of 256:
            folds of the weights of a and b               # once, for all tokens
            for t in tokens:
                sums[t] += products with x[t]
        for span of 32 that is left: the same
        out[t][a], out[t][b] = sums[t]

    A row's sums are made in the same lanes whatever the other row is, and for any number of tokens.
    """

    type: QuantType

    packing = Quantize()

    def products(
        self, k: OpKernel, weights: Pointer, rows: Range, x: Pointer, n_columns: Value
    ) -> Iterator[tuple[Value, list[Value]]]:
        type, (first, last) = self.type.on(k.isa), rows
        stride = row_stride(type, n_columns)
        n = self.rows_together
        apart = (last - first + (n - 1)) // n
        for row in k.range(first + apart, first, name="row"):
            together = [row, k.minimum(row + apart, last - 1)][:n]
            sums = [Sums(k, type, n) for _ in range(self.n_rows)]
            for size, column in k.strips(n_columns, type.chunks):
                start = row_stride(type, column)
                packed = [weights.at(each * stride + start) for each in together]
                for each in packed:
                    prefetch_ahead(k, each, size // type.block * type.bytes)
                if size == SPAN:
                    blocks = [Blocks(k, each, type, SPAN // type.block) for each in packed]
                    spans = [
                        Span.of(x, token, n_columns, column, SPAN) for token in range(self.n_rows)
                    ]
                    add_spans(k, type, blocks, sums, spans)
                    continue
                for number, each in enumerate(packed):
                    for i, group in enumerate(type.groups(k, type.unpack_chunk(k, each, size))):
                        for token, total in enumerate(sums):
                            span = Span.of(x, token, n_columns, column + GROUP * i, GROUP)
                            total.add_group(number, group, span)
            products = zip(*(total.of_rows() for total in sums), strict=True)
            yield from zip(together, map(list, products), strict=True)

    @property
    def rows_together(self) -> int:
        """Two; of types with groups of 16 one, where two rows' sums would not stay in registers."""
        return 2 if self.type.group == GROUP or 2 * self.n_rows <= MOST_FOLDS else 1


@dataclass(frozen=True)
class FloatMatVec(Gemv):
    """GEMV with x in f32.

    for register in floats(chunk):           # unpacked once, for all tokens
        for t in tokens:
            sums[t] += register * x[t]
    """

    def products(
        self, k: OpKernel, weights: Pointer, rows: Range, x: Pointer, n_columns: Value
    ) -> Iterator[tuple[Value, list[Value]]]:
        (first, last), stride = rows, row_stride(self.type, n_columns)
        for row in k.range(last, first, name="row"):
            sums = [Accumulators(k) for _ in range(self.n_rows)]
            for size, column, packed in chunks(k, self.type, weights.at(row * stride), n_columns):
                start = 0
                for floats in self.type.floats(k, packed, size):
                    for token, total in enumerate(sums):
                        x_row = x.at((column + n_columns * token) * 4)
                        total.add(floats, x_row.load(floats.type, start * 4))
                    start += floats.type.lanes
            yield row, [total.sum() for total in sums]


def rows_at_a_time(type: WeightType, isa: ISA, n_columns: int) -> tuple[int, int]:
    """The fewest and the most rows of weights that a thread takes: see `Tuning`."""
    return isa.tuning.items_of(type.row_bytes(n_columns))
