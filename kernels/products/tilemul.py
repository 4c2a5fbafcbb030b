"""GEMM on matrix registers: bf16 activations times weights unpacked to bf16.

Every 32 weights of a packed type have a scale of their own, so products of integers would have to
be scaled every 32 columns; in bf16 the scales are in the weights, and one kernel serves all types.

A tile's dot multiplies rows by pairs of columns (see `Tiles.dot`). Weights are its rows, just as
they unpack; activations are packed in pairs, once for all weights, by `RoundToBF16`. Sums have a
row for each row of weights, and are transposed on their way to out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Pointer, Value, f32, i32, i64, u16
from linnet.kernels.isa import ISA
from linnet.kernels.isa.tiles import CONFIGURATION, N_TILES, TILE
from linnet.kernels.ops.base import ALL_ROWS, Array, Float32s, Int, Int64s, OpKernel
from linnet.kernels.ops.peak import Peak, PeakTiles
from linnet.kernels.products.activations import Doubles, Packing, packed_bytes
from linnet.kernels.products.base import MatrixProduct
from linnet.kernels.products.panel import CHUNK
from linnet.kernels.quants import QuantType
from linnet.kernels.quants.packed_rows import chunks, panel_rows, row_stride

SIDE = 16  # rows of a tile, and words of four bytes in a row
DEPTH = 32  # numbers of bf16 in a row
N_SUMS = 4
WIDTH = 4 * SIDE  # rows of weights in a panel
TOGETHER = 4  # panels


@dataclass(frozen=True)
class RoundToBF16(Packing):
    """Activations as bf16, in the order in which tiles take them; an item is 16 rows.

    Pairs of columns of these rows, or of as many as are left, lie side by side, at the beginning of
    what the packed rows take together: (n_columns / 2, rows, 2).
    """

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, SIDE

    def emit(self, k: OpKernel, x: Float32s, out: Pointer, width: Int, n_rows: Int64s) -> None:
        end = n_rows.load()
        for item in k.items("tile"):
            first = item * SIDE
            n, target = k.minimum(end - first, SIDE), out.at(packed_bytes(width) * first)
            rows = [x.at((first + k.minimum(n - 1, i)) * width) for i in range(SIDE)]
            for column in k.range(width, step=DEPTH, name="column"):
                words = [k.isa.f32_to_bf16(row.load(column, DEPTH)).bits(i32[SIDE]) for row in rows]
                for i, pairs in enumerate(k.transpose(words)):
                    # Of fewer rows the next store overwrites what is behind them.
                    target.store(pairs, pair_bytes(n) * ((column >> 1) + i))

    def values(self, packed: Array, n_columns: int) -> Doubles:
        halves = np.empty((len(packed), n_columns), np.uint16)
        for rows, pairs in _tiles(packed, n_columns):
            halves[rows] = pairs.swapaxes(0, 1).reshape(-1, n_columns)
        return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)

    def reference(self, x: Array, out: Array, width: int, n_rows: Any = None) -> None:
        bits = x.view(np.uint32)
        halves = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        halves = np.where(np.isnan(x), bits >> 16 | 0x40, halves)
        for rows, pairs in _tiles(out, width):
            pairs[...] = halves[rows].reshape(-1, width // 2, 2).swapaxes(0, 1)


def pair_bytes(n_rows: Value) -> Value:
    """What a pair of columns of so many rows takes, which are packed together."""
    return n_rows * 4


def _tiles(packed: Array, n_columns: int) -> Iterator[tuple[slice, Array]]:
    """For each 16 packed rows which they are, and a view of them: u16 (n_columns / 2, rows, 2)."""
    for first in range(0, len(packed), SIDE):
        rows = slice(first, first + SIDE)
        flat = packed[rows].reshape(-1)
        n = len(packed[rows])
        yield rows, flat[: 2 * n_columns * n].view(np.uint16).reshape(n_columns // 2, n, 2)


@dataclass(frozen=True)
class TileMatMul(MatrixProduct):
    """out[t] = weights @ x[t] for all tokens t rounded to bf16; an item is a panel of 64 rows.

    for four panels of items:
        for chunk of columns, for panel:                   # 256 at a time
            unpack the panel's rows to bf16                # -> [64][columns], in L1
            for 32 tokens, for 32 rows of the panel:       # 16 and 64 where fewer tokens are left
                four tiles = sums, or zero in the first chunk
                for 32 columns in chunk:
                    four tiles += tiles of the panel @ tiles of activations
                sums = four tiles; in the last chunk out = four tiles, transposed

    Panels take turns, so that only the first of them reads a chunk of x from far away. Where fewer
    than 16 tokens are left, a tile holds other numbers besides, and nothing is kept of these.
    """

    type: QuantType

    packing = RoundToBF16()

    @property
    def peak(self) -> Peak:
        return PeakTiles()

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return -(-sizes["n_out"] // WIDTH), ALL_ROWS

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, TOGETHER

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        sums: int = TOGETHER * _in_tiles(n_tokens) * (4 * WIDTH)
        return CONFIGURATION + N_SUMS * TILE + WIDTH * (2 * CHUNK) + sums

    def emit(
        self, k: OpKernel, weights: Pointer, x: Pointer, out: Float32s, n_columns: Int, n_out: Int,
        n_rows: Int64s,
    ) -> None:  # fmt: skip
        panels = Panels(k, x, out, n_columns, n_out, n_rows.load())
        panels.tiles.configure_whole(panels.configuration)
        for start in k.range(k.last, k.first, TOGETHER, name="panels"):
            n_panels = k.minimum(k.last - start, TOGETHER)
            for size, column, packed in chunks(k, self.type, weights, n_columns):
                for i in k.range(n_panels, name="panel"):
                    first = (start + i) * WIDTH
                    panels.unpack(self.type, packed, first, size)
                    panels.multiply(first, i, column, size)
        panels.tiles.release()


class Panels:
    """What `TileMatMul` does with a chunk of a panel.

    Scratch memory: a configuration of tiles; four tiles on their way to out; the panel, bf16
    [64][256]; and sums, f32 [panel][tokens / 16][rows / 16][16 rows][16 tokens].
    """

    def __init__(
        self, k: OpKernel, x: Pointer, out: Float32s, n_columns: Value, n_out: Value,
        n_tokens: Value,
    ) -> None:  # fmt: skip
        if k.isa.tiles is None:
            raise TypeError(f"{k.isa.name} has no tiles")
        self.k, self.tiles = k, k.isa.tiles(k)
        self._x, self._out, self._n_out, self._n_tokens = x, out, n_out, n_tokens
        self._n_columns = n_columns
        self.configuration = k.scratch
        self._turned = self.configuration.at(CONFIGURATION)
        self._rows = self._turned.at(N_SUMS * TILE)
        self._sums = self._rows.at(WIDTH * (2 * CHUNK))

    def unpack(self, type: QuantType, packed: Pointer, first: Value, size: int) -> None:
        """The chunk of the panel whose first row is `first`; `packed`: the chunk of row 0."""
        k, stride = self.k, row_stride(type, self._n_columns)
        for row, source in panel_rows(k, type, packed, stride, first, WIDTH, self._n_out, size):
            for j, halves in enumerate(in_bf16(k, type, source, size)):
                self._rows.store(halves, row * (2 * CHUNK) + j * (2 * DEPTH))

    def multiply(self, first: Value, panel: Value, column: Value, size: int) -> None:
        """Add the chunk's products with all tokens to the sums of a panel, by number and first row;
        behind the last chunk, store them."""
        k, n = self.k, self._n_tokens
        sums = self._sums.at(panel * _in_tiles(n) * (4 * WIDTH))
        in_pairs = n & -(2 * SIDE)
        for token in k.range(in_pairs, step=2 * SIDE, name="tokens"):
            for v in range(0, 4, 2):
                self._multiply(sums, first, (v, v + 1), (token, token + SIDE), column, size)
        for token in k.range(n, in_pairs, SIDE, name="left"):
            self._multiply(sums, first, range(4), (token,), column, size)

    def _multiply(
        self, sums: Pointer, first: Value, parts: Sequence[int], tokens: Sequence[Value],
        column: Value, size: int,
    ) -> None:  # fmt: skip
        """The same for these sixteens of the panel's rows, and 16 tokens from each of `tokens`."""
        k, tiles, side = self.k, self.tiles, self.k.constant(i64, 4 * SIDE)
        places = [sums.at(token * (4 * WIDTH) + v * TILE) for v in parts for token in tokens]
        begins, ends = column.equals(0), (column + size).equals(self._n_columns)
        with k.when(begins):
            for tile in range(N_SUMS):
                tiles.zero(tile)
        with k.when(begins ^ 1):
            for tile, place in enumerate(places):
                tiles.load(tile, place, side)
        with k.when(ends):
            self._ask_for_out(first, parts, tokens)
        right = range(N_SUMS, N_SUMS + len(tokens))
        left = range(right.stop, N_TILES)
        strides = [pair_bytes(self._tokens_from(token)) for token in tokens]
        xs = [
            self._x.at(token * packed_bytes(self._n_columns) + (column >> 1) * stride)
            for token, stride in zip(tokens, strides, strict=True)
        ]
        for step in k.range(size // DEPTH, name="step"):
            for tile, x, stride in zip(right, xs, strides, strict=True):
                tiles.load(tile, x.at(step * (DEPTH // 2) * stride), stride)
            for i, v in enumerate(parts):
                rows = self._rows.at(v * (SIDE * 2 * CHUNK) + step * (2 * DEPTH))
                weights = left[i % len(left)]
                tiles.load(weights, rows, k.constant(i64, 2 * CHUNK))
                for j, tile in enumerate(right):
                    tiles.dot(i * len(tokens) + j, weights, tile)
        with k.when(ends ^ 1):
            for tile, place in enumerate(places):
                tiles.store(tile, place, side)
        with k.when(ends):
            for tile in range(N_SUMS):
                tiles.store(tile, self._turned.at(tile * TILE), side)
            for part in k.range(len(parts), name="part"):
                for nth in k.range(len(tokens), name="tile"):
                    turned = self._turned.at((part * len(tokens) + nth) * TILE)
                    self._store(turned, first + (part + parts[0]) * SIDE, tokens[0] + nth * SIDE)

    def _ask_for_out(self, first: Value, parts: Sequence[int], tokens: Sequence[Value]) -> None:
        """Rows of out lie too far apart for a CPU to see where the next one will be."""
        for i in self.k.range(len(tokens) * SIDE, name="ask"):
            row = self._out.at((tokens[0] + i) * self._n_out + first)
            for v in parts:
                row.address.prefetch(v * (4 * SIDE), level=2)

    def _store(self, tile: Pointer, first: Value, token: Value) -> None:
        """Store a tile, whose sums of row `first` on are 16 tokens' of each, to out, transposed."""
        k = self.k
        rows = [tile.load(f32[SIDE], i * (4 * SIDE)) for i in range(SIDE)]
        for place, sums in enumerate(k.transpose(rows)):
            tile.store(sums, place * (4 * SIDE))
        n_rows = self._n_out - first
        whole = n_rows >= SIDE
        for i in k.range(self._tokens_from(token), name="out"):
            source = tile.at(i * (4 * SIDE))
            target = self._out.at((token + i) * self._n_out + first)
            with k.when(whole):
                target.store(source.load(f32[SIDE]))
            with k.when(whole ^ 1):
                for row in k.range(n_rows, name="rest"):
                    target.store(source.load(f32, row * 4), row)

    def _tokens_from(self, token: Value) -> Value:
        """How many of 16 tokens there are."""
        return self.k.minimum(self._n_tokens - token, SIDE)


def in_bf16(k: OpKernel, type: QuantType, packed: Pointer, n_weights: int) -> list[Value]:
    """The next weights, rounded to bf16 from the floats they stand for: u16[32] each.

    Up to 16 levels a group are fewer to round than its weights: two groups' fill a register, in
    which lanes look them up.
    """
    if type.largest >= SIDE:
        floats = k.regroup(type.floats(k, packed, n_weights), DEPTH)
        return [k.isa.f32_to_bf16(part) for part in floats]
    chunk, levels = type.unpack_chunk(k, packed, n_weights), []
    for group in range(n_weights // type.group):
        numbers = k.constant(f32[SIDE], range(-type.zero, SIDE - type.zero))
        weights = numbers * chunk.scales[group]
        levels.append(weights if chunk.offsets is None else weights + chunk.offsets[group])
    pairs = zip(levels[::2], levels[1::2] or levels, strict=True)
    tables = [k.isa.f32_to_bf16(k.concat(pair)) for pair in pairs]
    found = []
    for i, lanes in enumerate(type.in_column_order(k, chunk)):
        groups = [(DEPTH * i + lane) // type.group for lane in range(DEPTH)]
        odd = k.constant(lanes.type, [group % 2 * SIDE for group in groups])
        found.append(k.isa.permute(tables[groups[0] // 2], (lanes | odd).to(u16)))
    return found


def _in_tiles(n_tokens: Any) -> Any:
    """Rounded up to whole tiles."""
    return (n_tokens + SIDE - 1) & -SIDE
