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
from typing import Any

from linnet.kernels.ir import Pointer, Value, f32, i8, i32, u8
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import ALL_ROWS, Float32s, Int, Int64s, OpKernel
from linnet.kernels.products.activations import Quantize, Span, packed_bytes, span_bytes
from linnet.kernels.products.base import MatrixProduct
from linnet.kernels.products.interleave import GROUP, RUN
from linnet.kernels.products.panel import CHUNK, Panel
from linnet.kernels.quants import QuantType
from linnet.kernels.quants.packed_rows import CACHE_LINE


class Gemm(MatrixProduct):
    """out[t] = weights @ x[t] for all tokens t of the pass; an item is a panel of rows."""

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return -(-sizes["n_out"] // panel_rows(isa)), ALL_ROWS


@dataclass(frozen=True)
class MatMul(Gemm):
    """GEMM with x packed by `Quantize`: products of bytes, summed as integers.

    The register tile, for the groups of columns in a chunk that share a scale:

        for group in chunk:
            products[tile] = -zero * x.lane_sum          # where lanes stand for lane - zero
            for four columns in group:                   # a vector: four columns of many rows
                products[tile] += dot(panel, broadcast of the token's four lanes)
            sums[tile] += products * (scales * x.scale) + offsets * x.sum
    """

    type: QuantType

    packing = Quantize()

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return panel_rows(isa) * (2 * CHUNK + 4 * 4 * 16 + 4 * n_tokens)

    def emit(
        self, k: OpKernel, weights: Pointer, x: Pointer, out: Float32s, n_columns: Int, n_out: Int,
        n_rows: Int64s,
    ) -> None:  # fmt: skip
        type, width = self.type, panel_rows(k.isa)
        panel = Panel(
            k, type, weights, out, n_columns, n_out, n_rows, n_vectors=k.isa.tuning.tile[1],
            element_bytes=1, more_bytes=4 * 64 * width,
        )  # fmt: skip
        # For each row 16 scales, then the same transposed; then both for offsets.
        row_scales, scales, row_offsets, offsets = (panel.more.at(i * 64 * width) for i in range(4))
        for size, column, packed in panel.chunks():
            for i, source in panel.each_row(packed, size):
                chunk = type.unpack_chunk(k, source, size)
                for j, lanes in enumerate(type.in_column_order(k, chunk)):
                    panel.rows.store(lanes, i * CHUNK + 32 * j)
                row_scales.store(chunk.scales, i * 64)
                if chunk.offsets is not None:
                    row_offsets.store(chunk.offsets, i * 64)
            panel.transpose(panel.rows, CHUNK, panel.columns, size // 4, i32)
            panel.transpose(row_scales, 64, scales, size // type.group, f32)
            if chunk.offsets is not None:
                panel.transpose(row_offsets, 64, offsets, size // type.group, f32)
            factors = scales, None if chunk.offsets is None else offsets
            for tokens in panel.tiles(k.isa.tuning.tile[0]):
                spans = [Span.of(x, token, n_columns, column, size) for token in tokens]
                # The next tile's lie in other rows, where the CPU does not look ahead by itself.
                for span in spans:
                    for line in range(0, span_bytes(size), CACHE_LINE):
                        span.address.prefetch(packed_bytes(n_columns) * len(tokens) + line)
                self._tile(panel, tokens, spans, size, *factors)

    def _tile(
        self, panel: Panel, tokens: Sequence[Value], spans: Sequence[Span], size: int,
        scales: Pointer, offsets: Pointer | None,
    ) -> None:  # fmt: skip
        """Add the products of a chunk with some tokens' spans to their sums."""
        k, lanes, group = panel.k, panel.lanes, self.type.group
        totals = panel.load_sums(tokens)
        for g in k.range(size // GROUP, name="group"):
            places = [span.find(g) for span in spans]
            for part in range(GROUP // group):
                first = g * GROUP + part * group  # column within the chunk
                words = panel.columns.at((first >> 2) * panel.row_bytes)
                products = self._products(panel, words, places, part)
                factor_row = (g * (GROUP // group) + part) * panel.row_bytes
                for (span, at), row_products, row_totals in zip(
                    places, products, totals, strict=True
                ):
                    x_scale = span.scales(at).load(f32)
                    for v, total in enumerate(row_totals):
                        scale = scales.load(f32[lanes], factor_row + v * 4 * lanes) * x_scale
                        total.set(k.fma(row_products[v].to(f32), scale, total.get()))
                    if offsets is not None:
                        x_sum = span.sums(at).load(f32, 4 * part)
                        if group == GROUP:
                            x_sum = x_sum + span.sums(at).load(f32, 4)
                        for v, total in enumerate(row_totals):
                            offset = offsets.load(f32[lanes], factor_row + v * 4 * lanes)
                            total.set(k.fma(offset, x_sum, total.get()))
        panel.store_sums(tokens, totals)

    def _products(
        self, panel: Panel, words: Pointer, places: list[tuple[Span, Value | int]], part: int
    ) -> list[list[Value]]:
        """Of each token and vector of rows, the integer products with a group of the weights."""
        k, lanes, group = panel.k, panel.lanes, self.type.group
        begin = [self._begin(k, *place, part).splat(lanes) for place in places]
        products = [[start for _ in range(panel.n_vectors)] for start in begin]
        for four in range(group // 4):
            weights = panel.load_row(words, four, u8[4 * lanes])
            run, rest = divmod(part * group + 4 * four, RUN)
            for i, (span, at) in enumerate(places):
                x = span.lanes(run, at).load(i32, rest).splat(lanes).bits(i8[4 * lanes])
                for v, vector in enumerate(weights):
                    products[i][v] = k.isa.dot(products[i][v], vector, x, self.type.largest)
        return products

    def _begin(self, k: OpKernel, span: Span, group: Value | int, part: int) -> Value:
        """What a token's products with a group begin with: what the lanes' zero adds up to."""
        if not self.type.zero:
            return k.constant(i32, 0)
        total = span.lane_sums(group).load(i32, 4 * part)
        if self.type.group == GROUP:
            total = total + span.lane_sums(group).load(i32, 4)
        return total * -self.type.zero


@dataclass(frozen=True)
class FloatMatMul(Gemm):
    """GEMM with x in f32.

    The register tile:

        for column in chunk:  sums[tile] += panel[column] * broadcast of the token's x[column]
    """

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return panel_rows(isa) * (2 * 4 * CHUNK + 4 * n_tokens)

    def emit(
        self, k: OpKernel, weights: Pointer, x: Float32s, out: Float32s, n_columns: Int, n_out: Int,
        n_rows: Int64s,
    ) -> None:  # fmt: skip
        panel = Panel(
            k, self.type, weights, out, n_columns, n_out, n_rows, n_vectors=k.isa.tuning.tile[1],
            element_bytes=4,
        )  # fmt: skip
        for size, column, packed in panel.chunks():
            for i, source in panel.each_row(packed, size):
                at = i * (4 * CHUNK)
                for floats in self.type.floats(k, source, size):
                    panel.rows.store(floats, at)
                    at = at + floats.type.bytes
            panel.transpose(panel.rows, 4 * CHUNK, panel.columns, size, f32)
            for tokens in panel.tiles(k.isa.tuning.tile[0]):
                starts = [token * n_columns + column for token in tokens]
                totals = [[k.cell(f32[panel.lanes], "sum") for _ in range(panel.n_vectors)]
                          for _ in starts]  # fmt: skip
                for c in k.range(size, name="column"):
                    row = panel.load_row(panel.columns, c, f32[panel.lanes])
                    for start, row_totals in zip(starts, totals, strict=True):
                        number = x.load(start + c)
                        for vector, total in zip(row, row_totals, strict=True):
                            total.set(k.fma(vector, number, total.get()))
                panel.add_sums(tokens, totals)


def panel_rows(isa: ISA) -> int:
    """Rows of weights in a panel."""
    return isa.lanes * isa.tuning.tile[1]
