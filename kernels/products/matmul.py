"""GEMM: products with many rows of activations, as prompts have; weights are unpacked once for all.

The rows of weights are taken in panels of a few vectors' worth. A chunk of a panel is unpacked into
the thread's scratch memory and transposed, so that a vector holds the same columns of many rows; it
then meets every token, a small tile of tokens at a time, with the sums in registers:

    for panel in items:                                  # `width` rows of weights
        sums[all tokens][width] = 0
        for chunk of columns:                            # 256 at a time
            unpack the panel's rows, transpose           # -> [columns][width], in L1
            for tile of tokens:                          # Tuning.tile: tokens x vectors
                sums[tile] += panel times activations
        out[token][panel] = sums[token]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from linnet.kernels.ir import Pointer, Value, f32, i16, i32, i64
from linnet.kernels.isa import ISA
from linnet.kernels.isa.base import DotSum
from linnet.kernels.ops.base import ALL_ROWS, Float32s, Int, Int64s, OpKernel
from linnet.kernels.products.activations import Quantize, Span, packed_bytes, span_bytes
from linnet.kernels.products.base import MatrixProduct
from linnet.kernels.products.folds import in_order, sums_of_twos
from linnet.kernels.products.interleave import GROUPS, RUN, SPAN
from linnet.kernels.products.panel import CHUNK, Panel, Tokens
from linnet.kernels.products.register_tile import (
    Dots,
    Factors,
    Products,
    RegisterTile,
    folded_lanes,
)
from linnet.kernels.products.squares import Squares
from linnet.kernels.quants import QuantType
from linnet.kernels.quants.base import Unpacked
from linnet.kernels.quants.packed_rows import CACHE_LINE

FACTORS = 4 * 16  # bytes: the scales, or offsets, of a row's chunk
MORE = 4 * FACTORS + 4  # of a row in a panel: see `MatMul._areas`


class Gemm(MatrixProduct):
    """out[t] = weights @ x[t] for all tokens t of the pass; an item is a panel of rows.

    `few`: for up to so many tokens `multiply_few` gives the same bits in less time.
    """

    few: ClassVar[int] = 0

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return -(-sizes["n_out"] // self.width(isa)), ALL_ROWS

    def emit(
        self, k: OpKernel, weights: Pointer, x: Pointer, out: Float32s, n_columns: Int, n_out: Int,
        n_rows: Int64s,
    ) -> None:  # fmt: skip
        panel = self.panel(k, n_columns, n_out)
        tokens = Tokens(n_rows.load(), x, self.x_bytes(n_columns), out, n_out)
        for item in k.items("panel"):
            self.multiply(panel, weights, item * panel.width, tokens)

    def width(self, isa: ISA) -> int:
        """Rows of weights in a panel."""
        return isa.lanes * isa.tuning.tile[1]

    def x_bytes(self, n_columns: Any) -> Any:
        """What a token's row of x takes."""
        return packed_bytes(n_columns)

    def panel(self, k: OpKernel, n_columns: Value, n_out: Value) -> Panel:
        """Trace the scratch memory of a thread, laid out for `multiply`."""
        raise NotImplementedError

    def multiply(self, panel: Panel, weights: Pointer, first: Value, tokens: Tokens) -> None:
        """Trace the products of a panel, whose first row is `first` of packed `weights`."""
        raise NotImplementedError

    def multiply_few(self, panel: Panel, weights: Pointer, first: Value, tokens: Tokens) -> None:
        """`multiply` for few tokens."""
        raise NotImplementedError


@dataclass(frozen=True)
class MatMul(Gemm):
    """GEMM with x packed by `Quantize`: products of bytes, summed as integers.

    A chunk is met tile by tile, as `linnet.kernels.products.register_tile` says. Its products:

        products[tile] = -zero * x.lane_sum              # where lanes stand for lane - zero
        for four columns in group:                       # a vector: four columns of many rows
            products[tile] += dot(panel, broadcast of the token's four lanes)

    Where a CPU multiplies two rows by two tokens they come about as `Squares` says.
    """

    type: QuantType

    packing = Quantize()
    few = 2

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return self.width(isa) * (2 * CHUNK + MORE + 4 * n_tokens)

    def panel(self, k: OpKernel, n_columns: Value, n_out: Value) -> Panel:
        return Panel(
            k, self.type, n_columns, n_out, n_vectors=k.isa.tuning.tile[1], element_bytes=1,
            more_bytes=MORE * self.width(k.isa),
        )  # fmt: skip

    def multiply(self, panel: Panel, weights: Pointer, first: Value, tokens: Tokens) -> None:
        for size, column, packed in panel.chunks(weights, first, tokens):
            self._add_chunk(panel, tokens, packed, column, size)

    def multiply_few(self, panel: Panel, weights: Pointer, first: Value, tokens: Tokens) -> None:
        """The same for few tokens, whose products are transposed and not the weights.

        for span of 256 columns:
            for row in panel:
                registers = unpack(span)                 # once, for all tokens
                for token in tokens:  products[token][row] = sums of dot(register, x.lanes)
            for token in tokens:
                transpose its products, and add them, scaled, to sums[token]
        """
        for size, column, packed in panel.chunks(weights, first, tokens):
            if size == SPAN:
                self._add_span(panel, tokens, packed, column)
            else:
                self._add_chunk(panel, tokens, packed, column, size)

    def _add_chunk(
        self, panel: Panel, tokens: Tokens, packed: Pointer, column: Value, size: int
    ) -> None:
        """Add the products with a chunk to the sums."""
        factors = self._unpack(panel, packed, size)
        products = (Squares if panel.k.isa.squares else Dots)(panel, self.type.on(panel.k.isa))
        for some in panel.tiles(panel.k.isa.tuning.tile[0]):
            spans = [Span.of(tokens.x_of(i), 0, panel.n_columns, column, size) for i in some]
            # The next tile's lie in other rows, where the CPU does not look ahead by itself.
            for i in some:
                following = tokens.x_of(i + len(some)).at(span_bytes(column))
                for line in range(0, span_bytes(size), CACHE_LINE):
                    following.prefetch(line)
            RegisterTile(products, some).add(spans, size, factors)

    def _unpack(self, panel: Panel, packed: Pointer, size: int) -> Factors:
        """Unpack a chunk of the panel to its columns; where its factors lie then."""
        k, type = panel.k, self.type.on(panel.k.isa)
        for i, source in panel.each_row(packed, size):
            chunk = type.unpack_chunk(k, source, size)
            for j, lanes in enumerate(type.in_column_order(k, chunk)):
                panel.rows.store(lanes, i * CHUNK + 32 * j)
            self._store_factors(panel, i, chunk)
        factors, change = self._transpose_factors(panel, chunk, size), None
        if k.isa.squares:
            panel.transpose(panel.rows, CHUNK, panel.columns, size // RUN, i64)
            return factors
        folded = folded_lanes(type, k.isa)
        if folded is not None and factors.multipliers is not None:
            change = partial(self._fold, panel, factors.multipliers, folded[1])
        panel.transpose(panel.rows, CHUNK, panel.columns, size // 4, i32, change)
        return factors

    def _fold(
        self, panel: Panel, multipliers: Pointer, zero: int, words: Value, group: Value, vector: int
    ) -> Value:
        """Four lanes of each row -> (lane - its zero) * the row's multiplier + `zero`.

        Two bytes a and b in a word at once: (a + 256 b) * m + 257 * (zero - m * its zero), of which
        no byte crosses into the other, since each comes out within 0..255.
        """
        pairs = i16[2 * panel.lanes]
        by = multipliers.load(pairs, group * panel.row_bytes + vector * pairs.bytes)
        return (words.bits(pairs) * by + (zero - by * self.type.zero) * 257).bits(words.type)

    def _add_span(self, panel: Panel, tokens: Tokens, packed: Pointer, column: Value) -> None:
        """Add the products with 256 columns to the sums of few tokens."""
        k, type = panel.k, self.type.on(panel.k.isa)
        products = Pairs(panel, type)
        # See `sums_of_twos`, of which the parts follow each other; `few` rows take what unpacked
        # ones have.
        row_bytes = 4 * 2 * GROUPS * products.parts
        for i, source in panel.each_row(packed, SPAN):
            chunk = type.unpack_chunk(k, source, SPAN)
            self._store_factors(panel, i, chunk)
            lanes = in_order(k, type, chunk)
            for token in k.range(tokens.n, name="token"):
                span = Span.of(tokens.x_of(token), 0, panel.n_columns, column, SPAN)
                target = panel.rows.at((token * panel.width + i) * row_bytes)
                for part, total in enumerate(sums_of_twos(k, type, lanes, span)):
                    target.store(total, total.type.bytes * part)
        factors = self._transpose_factors(panel, chunk, SPAN)
        for token in k.range(tokens.n, name="token"):
            sums = panel.rows.at(token * (panel.width * row_bytes))
            panel.transpose(sums, row_bytes, panel.columns, row_bytes // 4, i32)
            span = Span.of(tokens.x_of(token), 0, panel.n_columns, column, SPAN)
            RegisterTile(products, [token]).add([span], SPAN, factors)

    def _store_factors(self, panel: Panel, row: Value, chunk: Unpacked) -> None:
        """A row's scales, or multipliers and unit, and offsets, as far as there are."""
        scales, _, offsets, _, units = self._areas(panel)
        if chunk.multipliers is None or chunk.unit is None:
            scales.store(chunk.scales, row * FACTORS)
        else:
            scales.store(chunk.multipliers.repeat_lanes(2), row * FACTORS)
            units.store(chunk.unit, row * 4)
        if chunk.offsets is not None:
            offsets.store(chunk.offsets, row * FACTORS)

    def _transpose_factors(self, panel: Panel, chunk: Unpacked, size: int) -> Factors:
        """All rows' [row][group] -> [group][row]; where they lie then."""
        n_groups = size // self.type.group
        row_scales, scales, row_offsets, offsets, units = self._areas(panel)
        panel.transpose(row_scales, FACTORS, scales, n_groups, i32)
        if chunk.offsets is not None:
            panel.transpose(row_offsets, FACTORS, offsets, n_groups, f32)
        some_offsets = None if chunk.offsets is None else offsets
        if chunk.multipliers is None:
            return Factors(scales, some_offsets, None)
        return Factors(units, some_offsets, scales)

    def _areas(self, panel: Panel) -> list[Pointer]:
        """Scales or multipliers of each row, then the same transposed; both for offsets; units."""
        return [panel.more.at(i * FACTORS * panel.width) for i in range(5)]


class Pairs(Products):
    """Of one token: the panel's columns hold sums of two for every group, [part][g][2]."""

    def of_group(self, spans: Sequence[Span], g: Value, part: int) -> list[list[DotSum]]:
        panel, (span,) = self.panel, spans
        pair = [
            panel.load_row(panel.columns, 2 * GROUPS * part + 2 * g + i, i32[panel.lanes])
            for i in range(2)
        ]
        begin = self.begin(span, g, self.halves(part), self.type.zero)
        return [[DotSum(a + b + begin, self.type.largest) for a, b in zip(*pair, strict=True)]]


@dataclass(frozen=True)
class FloatMatMul(Gemm):
    """GEMM with x in f32.

    The register tile:

        for column in chunk:  sums[tile] += panel[column] * broadcast of the token's x[column]
    """

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return self.width(isa) * (2 * 4 * CHUNK + 4 * n_tokens)

    def x_bytes(self, n_columns: Any) -> Any:
        return n_columns * 4

    def panel(self, k: OpKernel, n_columns: Value, n_out: Value) -> Panel:
        return Panel(
            k, self.type, n_columns, n_out, n_vectors=k.isa.tuning.tile[1], element_bytes=4
        )

    def multiply(self, panel: Panel, weights: Pointer, first: Value, tokens: Tokens) -> None:
        k = panel.k
        for size, column, packed in panel.chunks(weights, first, tokens):
            for i, source in panel.each_row(packed, size):
                at = i * (4 * CHUNK)
                for floats in self.type.floats(k, source, size):
                    panel.rows.store(floats, at)
                    at = at + floats.type.bytes
            panel.transpose(panel.rows, 4 * CHUNK, panel.columns, size, f32)
            for some in panel.tiles(k.isa.tuning.tile[0]):
                starts = [tokens.x_of(i).at(column * 4) for i in some]
                totals = [[k.cell(f32[panel.lanes], "sum") for _ in range(panel.n_vectors)]
                          for _ in starts]  # fmt: skip
                for c in k.range(size, name="column"):
                    row = panel.load_row(panel.columns, c, f32[panel.lanes])
                    for start, row_totals in zip(starts, totals, strict=True):
                        number = start.load(f32, c * 4)
                        for vector, total in zip(row, row_totals, strict=True):
                            total.set(k.fma(vector, number, total.get()))
                panel.add_sums(some, totals)
