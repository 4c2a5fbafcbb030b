"""Rows picked by number, as token embeddings are, and columns picked at a stride."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Pointer
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Array, Float32s, Int, Int32s, Op, OpKernel
from linnet.kernels.quants import WeightType
from linnet.kernels.quants.packed_rows import chunks, row_stride


@dataclass(frozen=True)
class PickRows(Op):
    """out[i] = table[rows[i]] as f32, bit for bit as `dequantize`; an item is one i.

    table: packed (n, width); rows: i32 (n_items,), checked by the caller; out: f32 (n_items, width)

        for i in items:
            for chunk of table[rows[i]]:  out[i][chunk] = floats(chunk)
    """

    type: WeightType

    picks = {"table": "rows"}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def emit(self, k: OpKernel, table: Pointer, rows: Int32s, out: Float32s, width: Int) -> None:
        for item in k.items():
            packed = table.at(rows.index(item) * row_stride(self.type, width))
            for size, column, chunk in chunks(k, self.type, packed, width):
                start = item * width + column
                for floats in self.type.floats(k, chunk, size):
                    out.store(floats, start)
                    start = start + floats.type.lanes

    def reference(self, table: Array, rows: Array, out: Array, width: int) -> None:
        out[...] = self.type.dequantize(table[rows].view(np.uint8))


@dataclass(frozen=True)
class PickColumns(Op):
    """out[row] = x[row][start : start + width], a part of every row; an item is a row.

    x: f32 (n_rows, stride); out: f32 (n_rows, width); a token has `n_parts` rows.
    """

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_parts"], 1

    def emit(
        self, k: OpKernel, x: Float32s, out: Float32s,
        start: Int, width: Int, stride: Int, n_parts: Int,
    ) -> None:  # fmt: skip
        for row in k.items("row"):
            part = x.at(row * stride + start)
            for size, i in k.strips(width, (k.isa.lanes, 1)):
                out.store(part.load(i, size), row * width + i)

    def reference(
        self, x: Array, out: Array, start: int, width: int, stride: int, n_parts: int
    ) -> None:
        out[...] = x.reshape(-1, stride)[:, start : start + width].reshape(out.shape)


@dataclass(frozen=True)
class JoinColumns(Op):
    """out[row] = x[row], y[row]; an item is a row, of which a token has `n_parts`.

    x: f32 (n_rows, n_x); y: f32 (n_rows, n_y); out: f32 (n_rows, n_x + n_y)
    """

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_parts"], 1

    def emit(
        self, k: OpKernel, x: Float32s, y: Float32s, out: Float32s, n_x: Int, n_y: Int, n_parts: Int
    ) -> None:
        for row in k.items("row"):
            start = row * (n_x + n_y)
            for size, i in k.strips(n_x, (k.isa.lanes, 1)):
                out.store(x.load(row * n_x + i, size), start + i)
            for size, i in k.strips(n_y, (k.isa.lanes, 1)):
                out.store(y.load(row * n_y + i, size), start + n_x + i)

    def reference(self, x: Array, y: Array, out: Array, n_x: int, n_y: int, n_parts: int) -> None:
        rows = x.reshape(-1, n_x), y.reshape(-1, n_y)
        out[...] = np.concatenate(rows, axis=1).reshape(out.shape)
