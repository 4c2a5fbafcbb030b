"""Products with many rows on matrix registers: bf16 activations times weights unpacked to bf16.

Every 32 weights of a packed type have a scale of their own, so products of integers would have to
be scaled every 32 columns; in bf16 the scales are in the weights, and one kernel serves all types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import Pointer, Value, f32, i32, i64, pointer, u8, u16
from linnet.kernels.isa import ISA
from linnet.kernels.isa.amx import Tiles
from linnet.kernels.ops.base import ALL_ROWS, Op, OpKernel
from linnet.kernels.products.activations import Quantize, packed_bytes
from linnet.kernels.products.matmul import CHUNK, Panel
from linnet.kernels.products.matvec import MatVec, chunks
from linnet.kernels.quants import QuantType

SIDE = 16  # rows of a tile, and numbers of f32 in a row
DEPTH = 32  # numbers of bf16 in a row
SUMS, LEFT, RIGHT = ((0, 1), (2, 3)), (4, 5), (6, 7)  # the tiles, by use
VECTORS = len(RIGHT)
WIDTH = SIDE * VECTORS  # rows of weights in a panel


@dataclass(frozen=True)
class RoundToBF16(Op):
    """x f32 (n_rows, width) -> out bf16 in rows of packed_bytes(width); an item is a row."""

    parameters = Quantize.parameters

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        for row in k.items("row"):
            x, out = a["x"].at(row * a["width"] * 4), a["out"].at(packed_bytes(a["width"]) * row)
            for size, i in k.strips(a["width"], (SIDE,)):
                out.store(k.isa.f32_to_bf16(x.load(f32[size], i * 4)), i * 2)

    def reference(self, **a: Any) -> None:
        bits = a["x"].view(np.uint32)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        rounded = np.where(np.isnan(a["x"]), bits >> 16 | 0x40, rounded)
        a["out"][:, : 2 * a["width"]] = rounded.astype(np.uint16).view(np.uint8)


@dataclass(frozen=True)
class TileMatMul(Op):
    """out[t] = weights @ x[t] for all tokens t rounded to bf16; an item is 32 rows of weights.

    for panel in items:
        sums[all tokens][32] = 0
        for chunk of columns:                        # 256 at a time
            unpack the panel's rows to bf16, turn pairs of columns -> [columns / 2][32][2]
            for 32 tokens:                           # then 16, or as many as are left
                four tiles = sums[tokens]
                for 32 columns in chunk:
                    four tiles += two of activations @ two of the panel
                sums[tokens] = four tiles
        out[token][panel] = sums[token]
    """

    type: QuantType

    parameters = {**MatVec.parameters, "n_rows": pointer}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return -(-sizes["n_out"] // WIDTH), ALL_ROWS

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return WIDTH * (2 * 2 * CHUNK + 4 * n_tokens) + 2 * 64

    def emit(self, k: OpKernel, **a: Any) -> None:
        if k.isa.tiles is None:
            raise TypeError(f"{k.isa.name} has no tiles")
        tiles, panel = k.isa.tiles(k), Panel(k, self.type, 2, a, vectors=VECTORS)
        whole = panel.after
        partial, sums = whole.at(64), whole.at(2 * 64)
        in_pairs = panel.n_tokens & -(2 * SIDE)
        self._configure(k, whole, k.constant(i64, SIDE))
        for item in k.items("panel"):
            first = item * WIDTH
            panel.clear(sums)
            for size, column, packed in chunks(k, self.type, a["weights"], a["n_columns"]):
                for i, source in panel.each_row(first, packed):
                    for j, floats in enumerate(self.type.floats(k, source, size)):
                        part = k.isa.f32_to_bf16(floats)
                        panel.rows.store(part, i * panel.row_bytes + j * part.type.bytes)
                panel.turn(panel.rows, panel.row_bytes, panel.panel, size // 2, i32)
                tiles.configure(whole)
                for token in k.range(in_pairs, step=2 * SIDE, name="tokens"):
                    self._multiply(tiles, panel, token, 2, size, column, sums)
                for token in k.range(panel.n_tokens, in_pairs, SIDE, name="left"):
                    self._configure(k, partial, k.minimum(panel.n_tokens - token, SIDE))
                    tiles.configure(partial)
                    self._multiply(tiles, panel, token, 1, size, column, sums)
            panel.finish(sums, first)
        tiles.release()

    def _configure(self, k: OpKernel, at: Pointer, n_tokens: Value) -> None:
        """Tiles of 16 rows; of `n_tokens` those that have one for each token."""
        at.store(k.constant(u8[64], [1, *[0] * 63]))
        at.store(k.constant(u16[8], 4 * SIDE), 16)
        at.store(k.constant(u8[8], SIDE), 48)
        for tile in (*SUMS[0], *SUMS[1], *LEFT):
            at.store(n_tokens.to(u8), 48 + tile)

    def _multiply(
        self, tiles: Tiles, panel: Panel, token: Value, n: int, size: int, column: Value,
        sums: Pointer,
    ) -> None:  # fmt: skip
        """`n` tiles of tokens from `token` on times the panel, added to their sums."""
        k = panel.k
        row = k.constant(i64, 4 * WIDTH)
        x_row = packed_bytes(panel.a["n_columns"])
        places = [
            (SUMS[i][v], sums.at((token + i * SIDE) * (4 * WIDTH) + v * (4 * SIDE)))
            for i in range(n)
            for v in range(VECTORS)
        ]
        for tile, place in places:
            tiles.load(tile, place, row)
        for step in k.range(size // DEPTH, name="step"):
            words = panel.panel.at(step * (DEPTH // 2 * 4 * WIDTH))
            for v in range(VECTORS):
                tiles.load(RIGHT[v], words.at(v * (4 * SIDE)), row)
            for i in range(n):
                x = panel.a["x"].at(x_row * (token + i * SIDE) + (column + step * DEPTH) * 2)
                tiles.load(LEFT[i], x, x_row)
                for v in range(VECTORS):
                    tiles.dot(SUMS[i][v], LEFT[i], RIGHT[v])
        for tile, place in places:
            tiles.store(tile, place, row)

    def reference(self, **a: Any) -> None:
        x = rounded(a["x"], a["n_columns"]).astype(np.float64)
        a["out"][...] = x @ self.type.dequantize(a["weights"]).astype(np.float64).T


def rounded(packed: npt.NDArray[np.uint8], n_columns: int) -> npt.NDArray[np.float32]:
    """The activations (n_rows, n_columns) that `RoundToBF16` wrote."""
    halves = np.ascontiguousarray(packed[:, : 2 * n_columns]).view(np.uint16)
    return (halves.astype(np.uint32) << 16).view(np.float32)
