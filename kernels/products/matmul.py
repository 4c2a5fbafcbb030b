"""Products with many rows of activations, as prompts have: weights are unpacked once for all.

The rows of weights are taken in panels of a few vectors' worth. A chunk of a panel is unpacked
into the thread's scratch memory and turned so that a vector holds the same columns of many rows;
it then meets every token, a small tile of tokens at a time, with the sums in registers:

    for panel in items:                                  # `width` rows of weights
        sums[all tokens][width] = 0
        for chunk of columns:                            # 256 at a time
            unpack the panel's rows, transpose           # -> [columns][width], in L1
            for tile of tokens:                          # Tuning.tile: tokens x vectors
                sums[tile] += panel times activations
        out[token][panel] = sums[token]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from linnet.kernels.ir import Pointer, Type, Value, f32, i8, i32, i64, pointer, u8
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import ALL_ROWS, Op, OpKernel
from linnet.kernels.products.activations import Span, packed_bytes, span_bytes
from linnet.kernels.products.interleave import GROUP, RUN
from linnet.kernels.products.matvec import CACHE_LINE, FloatMatVec, MatVec, chunks, row_stride
from linnet.kernels.quants import QuantType, WeightType

CHUNK = 256  # the most columns unpacked at a time


class PanelsOfWeights(Op):
    """An op whose items are panels of rows of a packed matrix."""

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return -(-sizes["n_out"] // panel_rows(isa)), ALL_ROWS


class Panel:
    """A panel's scratch memory and the loops that both products share."""

    def __init__(
        self, k: OpKernel, type: WeightType, element_bytes: int, a: dict[str, Any],
        vectors: int | None = None,
    ) -> None:  # fmt: skip
        """`element_bytes`: what one column of one row takes when unpacked; `vectors`: of rows, if
        not as many as tiles of sums have."""
        self.k, self.a = k, a
        self.stride = row_stride(type, a["n_columns"])
        self.lanes, (self.tile, in_tile) = k.isa.lanes, k.isa.tuning.tile
        self.vectors = vectors or in_tile
        self.width = self.lanes * self.vectors
        self.n_tokens = a["n_rows"].load(i64)
        self.row_bytes = CHUNK * element_bytes  # of one unpacked row
        self.rows = k.scratch
        self.panel = k.scratch.at(self.width * self.row_bytes)
        self.after = k.scratch.at(2 * self.width * self.row_bytes)

    def each_row(self, first: Value, packed: Pointer) -> Iterator[tuple[Value, Pointer]]:
        """(index in the panel, where `packed` of row 0 lies in this row of weights); past the
        matrix's end the last row, again."""
        for i in self.k.range(self.width, name="row"):
            row = self.k.minimum(first + i, self.a["n_out"] - 1)
            yield i, packed.at(row * self.stride)

    def turn(self, source: Pointer, stride: int, target: Pointer, n_words: int, type: Type) -> None:
        """Words [width rows at `stride`][n_words] -> [n_words][width], rounding n_words up."""
        k, lanes = self.k, self.lanes
        for block in k.range(-(-n_words // lanes), name="turn"):
            for vector in range(self.vectors):
                rows = range(vector * lanes, (vector + 1) * lanes)
                words = [source.load(type[lanes], block * (4 * lanes) + r * stride) for r in rows]
                for i, column in enumerate(k.transpose(words)):
                    at = block * (4 * lanes * self.width) + 4 * (i * self.width + vector * lanes)
                    target.store(column, at)

    def tiles(self) -> Iterator[tuple[int, Value]]:
        """(tokens in the tile, its first token): full tiles, then the tokens left one by one."""
        full = self.n_tokens // self.tile * self.tile
        for token in self.k.range(full, step=self.tile, name="tile"):
            yield self.tile, token
        for token in self.k.range(self.n_tokens, full, name="token"):
            yield 1, token

    def clear(self, sums: Pointer) -> None:
        zero = self.k.constant(f32[self.lanes], 0)
        for i in self.k.range(self.n_tokens * self.vectors, name="clear"):
            sums.store(zero, i * (4 * self.lanes))

    def finish(self, sums: Pointer, first: Value) -> None:
        """Copy sums [token][width] to out [token][first row on], no further than its last row."""
        k, out, n_out = self.k, self.a["out"], self.a["n_out"]
        for token in k.range(self.n_tokens, name="out"):
            source, target = sums.at(token * (4 * self.width)), out.at((token * n_out + first) * 4)
            whole = first + self.width <= n_out
            with k.when(whole):
                for vector in range(self.vectors):
                    at = 4 * self.lanes * vector
                    target.store(source.load(f32[self.lanes], at), at)
            with k.when(whole ^ 1):
                for i in k.range(n_out - first, name="rest"):
                    target.store(source.load(f32, i * 4), i * 4)


@dataclass(frozen=True)
class MatMul(PanelsOfWeights):
    """out[t] = weights @ x[t] for all tokens t packed by `Quantize`; an item is a panel of rows.

    The register tile, for the groups of columns in a chunk that share a scale:

        for group in chunk:
            products[tile] = -zero * x.lane_sum          # where lanes stand for lane - zero
            for four columns in group:                   # a vector: four columns of many rows
                products[tile] += dot(panel, broadcast of the token's four lanes)
            sums[tile] += products * (scales * x.scale) + offsets * x.sum
    """

    type: QuantType

    parameters = {**MatVec.parameters, "n_rows": pointer}

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return panel_rows(isa) * (2 * CHUNK + 4 * 4 * 16 + 4 * n_tokens)

    def emit(self, k: OpKernel, **a: Any) -> None:
        type, panel = self.type, Panel(k, self.type, 1, a)
        row_scales = panel.after  # [row][16]; then the same turned; then both for offsets
        scales, row_offsets, turned = (row_scales.at(i * 64 * panel.width) for i in (1, 2, 3))
        sums = row_scales.at(4 * 64 * panel.width)
        for item in k.items("panel"):
            first = item * panel.width
            panel.clear(sums)
            for size, column, packed in chunks(k, type, a["weights"], a["n_columns"]):
                for i, source in panel.each_row(first, packed):
                    chunk = type.unpack_chunk(k, source, size)
                    for j, lanes in enumerate(type.in_column_order(k, chunk)):
                        panel.rows.store(lanes, i * CHUNK + 32 * j)
                    row_scales.store(chunk.scales, i * 64)
                    if chunk.offsets is not None:
                        row_offsets.store(chunk.offsets, i * 64)
                panel.turn(panel.rows, CHUNK, panel.panel, size // 4, i32)
                panel.turn(row_scales, 64, scales, size // type.group, f32)
                offsets = None if chunk.offsets is None else turned
                if offsets is not None:
                    panel.turn(row_offsets, 64, offsets, size // type.group, f32)
                for n, token in panel.tiles():
                    self._tile(panel, n, token, size, column, scales, offsets, sums)
            panel.finish(sums, first)

    def _tile(
        self, panel: Panel, n: int, token: Value, size: int, column: Value,
        scales: Pointer, offsets: Pointer | None, sums: Pointer,
    ) -> None:  # fmt: skip
        k, lanes, vectors = panel.k, panel.lanes, range(panel.vectors)
        vector_bytes, row = 4 * lanes, 4 * panel.width
        tokens = [token + i for i in range(n)]
        n_columns = panel.a["n_columns"]
        spans = [Span.of(panel.a["x"], t, n_columns, column, size) for t in tokens]
        # The next tile's spans lie in other rows, where the CPU does not look ahead by itself.
        for span in spans:
            for line in range(0, span_bytes(size), CACHE_LINE):
                span.address.prefetch(packed_bytes(n_columns) * n + line)
        totals = [
            [k.cell(sums.load(f32[lanes], t * row + v * vector_bytes), "sum") for v in vectors]
            for t in tokens
        ]
        group = self.type.group
        for g in k.range(size // 32, name="group"):
            for part in range(32 // group):
                at = g * 32 + part * group  # the first column, within the chunk
                words = panel.panel.at((at >> 2) * row)
                begin = [self._begin(span, g, part).splat(lanes) for span in spans]
                products = [[start for _ in vectors] for start in begin]
                for four in range(group // 4):
                    weights = [
                        words.load(u8[4 * lanes], four * row + v * vector_bytes) for v in vectors
                    ]
                    run, rest = divmod(part * group + 4 * four, RUN)
                    for i, span in enumerate(spans):
                        x = span.lanes(run, g).load(i32, rest).splat(lanes)
                        for v in vectors:
                            products[i][v] = k.isa.dot(
                                products[i][v], weights[v], x.bits(i8[4 * lanes]), self.type.largest
                            )
                scale_row = (g * (32 // group) + part) * row
                for i, span in enumerate(spans):
                    x_scale = span.scales(g).load(f32)
                    for v in vectors:
                        scale = scales.load(f32[lanes], scale_row + v * vector_bytes) * x_scale
                        total = k.fma(products[i][v].to(f32), scale, totals[i][v].get())
                        totals[i][v].set(total)
                    if offsets is not None:
                        x_sum = span.sums(g).load(f32, 4 * part)
                        if group == GROUP:
                            x_sum = x_sum + span.sums(g).load(f32, 4)
                        for v in vectors:
                            offset = offsets.load(f32[lanes], scale_row + v * vector_bytes)
                            totals[i][v].set(k.fma(offset, x_sum, totals[i][v].get()))
        for t, row_totals in zip(tokens, totals, strict=True):
            for v in vectors:
                sums.store(row_totals[v].get(), t * row + v * vector_bytes)

    def _begin(self, span: Span, group: Value, part: int) -> Value:
        """What a token's products with a group begin with: what the lanes' zero adds up to."""
        k = group.k
        if not self.type.zero:
            return k.constant(i32, 0)
        total = span.lane_sums(group).load(i32, 4 * part)
        if self.type.group == GROUP:
            total = total + span.lane_sums(group).load(i32, 4)
        return total * -self.type.zero

    def reference(self, **a: Any) -> None:
        MatVec(self.type, 1).reference(**a)


@dataclass(frozen=True)
class FloatMatMul(PanelsOfWeights):
    """out[t] = weights @ x[t] for all tokens t in f32; an item is a panel of rows.

    The register tile:

        for column in chunk:  sums[tile] += panel[column] * broadcast of the token's x[column]
    """

    type: WeightType

    parameters = {**FloatMatVec.parameters, "n_rows": pointer}

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return panel_rows(isa) * (2 * 4 * CHUNK + 4 * n_tokens)

    def emit(self, k: OpKernel, **a: Any) -> None:
        type, panel = self.type, Panel(k, self.type, 4, a)
        sums = panel.after
        for item in k.items("panel"):
            first = item * panel.width
            panel.clear(sums)
            for size, column, packed in chunks(k, type, a["weights"], a["n_columns"]):
                for i, source in panel.each_row(first, packed):
                    at = 0
                    for floats in type.floats(k, source, size):
                        panel.rows.store(floats, i * panel.row_bytes + at)
                        at += floats.type.bytes
                panel.turn(panel.rows, panel.row_bytes, panel.panel, size, f32)
                for n, token in panel.tiles():
                    self._tile(panel, n, token, size, column, sums)
            panel.finish(sums, first)

    def _tile(
        self, panel: Panel, n: int, token: Value, size: int, column: Value, sums: Pointer
    ) -> None:
        k, lanes, vectors = panel.k, panel.lanes, range(panel.vectors)
        vector_bytes, row = 4 * lanes, 4 * panel.width
        tokens = [token + i for i in range(n)]
        starts = [(t * panel.a["n_columns"] + column) * 4 for t in tokens]
        totals = [[k.cell(f32[lanes], "sum") for _ in vectors] for _ in tokens]
        for c in k.range(size, name="column"):
            words = panel.panel.at(c * row)
            weights = [words.load(f32[lanes], v * vector_bytes) for v in vectors]
            for start, row_totals in zip(starts, totals, strict=True):
                x = panel.a["x"].load(f32, start + c * 4)
                for v in vectors:
                    row_totals[v].set(k.fma(weights[v], x, row_totals[v].get()))
        for t, row_totals in zip(tokens, totals, strict=True):
            for v in vectors:
                at = t * row + v * vector_bytes
                sums.store(sums.load(f32[lanes], at) + row_totals[v].get(), at)

    def reference(self, **a: Any) -> None:
        FloatMatVec(self.type, 1).reference(**a)


def panel_rows(isa: ISA) -> int:
    """Rows of weights in a panel."""
    return isa.lanes * isa.tuning.tile[1]
