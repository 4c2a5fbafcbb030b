"""GEMM on matrix registers: bf16 activations times weights unpacked to bf16.

Every 32 weights of a packed type have a scale of their own, so products of integers would have to
be scaled every 32 columns; in bf16 the scales are in the weights, and one kernel serves all types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Pointer, Value, i32, i64, u8, u16
from linnet.kernels.isa import ISA
from linnet.kernels.isa.tiles import Tiles
from linnet.kernels.ops.base import ALL_ROWS, Array, Float32s, Int, Int64s, OpKernel
from linnet.kernels.products.activations import Doubles, Packing, packed_bytes
from linnet.kernels.products.base import MatrixProduct
from linnet.kernels.products.panel import CHUNK, Panel
from linnet.kernels.quants import QuantType

SIDE = 16  # rows of a tile, and numbers of f32 in a row
DEPTH = 32  # numbers of bf16 in a row
SUMS, LEFT, RIGHT = ((0, 1), (2, 3)), (4, 5), (6, 7)  # the tiles, by use
VECTORS = len(RIGHT)
WIDTH = SIDE * VECTORS  # rows of weights in a panel
CONFIGURATION = 64  # bytes


@dataclass(frozen=True)
class RoundToBF16(Packing):
    """Activations as bf16, at the beginning of each packed row; an item is a row."""

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def emit(self, k: OpKernel, x: Float32s, out: Pointer, width: Int) -> None:
        for row in k.items("row"):
            source, target = x.at(row * width), out.at(packed_bytes(width) * row)
            for size, i in k.strips(width, (SIDE,)):
                target.store(k.isa.f32_to_bf16(source.load(i, size)), i * 2)

    def values(self, packed: Array, n_columns: int) -> Doubles:
        halves = np.ascontiguousarray(packed[:, : 2 * n_columns]).view(np.uint16)
        return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)

    def reference(self, x: Array, out: Array, width: int) -> None:
        bits = x.view(np.uint32)
        halves = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        halves = np.where(np.isnan(x), bits >> 16 | 0x40, halves)
        out[:, : 2 * width] = halves.astype(np.uint16).view(np.uint8)


@dataclass(frozen=True)
class TileMatMul(MatrixProduct):
    """out[t] = weights @ x[t] for all tokens t rounded to bf16; an item is 32 rows of weights.

    for panel in items:
        sums[all tokens][32] = 0
        for chunk of columns:                        # 256 at a time
            unpack the panel's rows to bf16, transpose pairs of columns -> [columns / 2][32][2]
            for 32 tokens:                           # then 16, or as many as are left
                four tiles = sums[tokens]
                for 32 columns in chunk:
                    four tiles += two of activations @ two of the panel
                sums[tokens] = four tiles
        out[token][panel] = sums[token]
    """

    type: QuantType

    packing = RoundToBF16()

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return -(-sizes["n_out"] // WIDTH), ALL_ROWS

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return WIDTH * (2 * 2 * CHUNK + 4 * n_tokens) + 2 * CONFIGURATION

    def emit(
        self, k: OpKernel, weights: Pointer, x: Pointer, out: Float32s, n_columns: Int, n_out: Int,
        n_rows: Int64s,
    ) -> None:  # fmt: skip
        if k.isa.tiles is None:
            raise TypeError(f"{k.isa.name} has no tiles")
        panel = Panel(
            k, self.type, weights, out, n_columns, n_out, n_rows, n_vectors=VECTORS,
            element_bytes=2, more_bytes=2 * CONFIGURATION,
        )  # fmt: skip
        tiles, whole, partial = k.isa.tiles(k), panel.more, panel.more.at(CONFIGURATION)
        in_pairs, x_row = panel.n_tokens & -(2 * SIDE), packed_bytes(n_columns)
        self._configure(k, whole, k.constant(i64, SIDE))
        for size, column, packed in panel.chunks():
            for i, source in panel.each_row(packed, size):
                for j, floats in enumerate(self.type.floats(k, source, size)):
                    part = k.isa.f32_to_bf16(floats)
                    panel.rows.store(part, i * (2 * CHUNK) + j * part.type.bytes)
            panel.transpose(panel.rows, 2 * CHUNK, panel.columns, size // 2, i32)
            tiles.configure(whole)
            for token in k.range(in_pairs, step=2 * SIDE, name="tokens"):
                rows = [x_row * (token + i * SIDE) + column * 2 for i in range(2)]
                self._multiply(tiles, panel, token, [x.at(row) for row in rows], x_row, size)
            for token in k.range(panel.n_tokens, in_pairs, SIDE, name="left"):
                self._configure(k, partial, k.minimum(panel.n_tokens - token, SIDE))
                tiles.configure(partial)
                row = x.at(x_row * token + column * 2)
                self._multiply(tiles, panel, token, [row], x_row, size)
        tiles.release()

    def _configure(self, k: OpKernel, at: Pointer, n_tokens: Value) -> None:
        """Tiles of 16 rows; of `n_tokens` those that have one for each token."""
        at.store(k.constant(u8[64], [1, *[0] * 63]))
        at.store(k.constant(u16[8], 4 * SIDE), 16)
        at.store(k.constant(u8[8], SIDE), 48)
        for tile in (*SUMS[0], *SUMS[1], *LEFT):
            at.store(n_tokens.to(u8), 48 + tile)

    def _multiply(
        self, tiles: Tiles, panel: Panel, token: Value, rows: list[Pointer], stride: Value,
        size: int,
    ) -> None:  # fmt: skip
        """Add the panel times tiles of tokens from `token` on to their sums.

        `rows`: for each tile the chunk of its first token's x; `stride`: bytes to the next token's.
        """
        k = panel.k
        row = k.constant(i64, 4 * WIDTH)
        places = [
            (SUMS[i][v], panel.sums.at((token + i * SIDE) * (4 * WIDTH) + v * (4 * SIDE)))
            for i in range(len(rows))
            for v in range(VECTORS)
        ]
        for tile, place in places:
            tiles.load(tile, place, row)
        for step in k.range(size // DEPTH, name="step"):
            words = panel.columns.at(step * (DEPTH // 2 * 4 * WIDTH))
            for v in range(VECTORS):
                tiles.load(RIGHT[v], words.at(v * (4 * SIDE)), row)
            for i, x in enumerate(rows):
                tiles.load(LEFT[i], x.at(step * (2 * DEPTH)), stride)
                for v in range(VECTORS):
                    tiles.dot(SUMS[i][v], LEFT[i], RIGHT[v])
        for tile, place in places:
            tiles.store(tile, place, row)
