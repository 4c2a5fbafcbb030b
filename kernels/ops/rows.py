"""Rows picked by number, as token embeddings are, and columns picked at a stride."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import f32, i32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Op, OpKernel
from linnet.kernels.products.matvec import chunks, row_stride
from linnet.kernels.quants import WeightType


@dataclass(frozen=True)
class PickRows(Op):
    """out[i] = table[rows[i]] as f32, bit for bit as `dequantize`; an item is one i.

    table: packed (n, width); rows: i32 (n_items,), checked by the caller; out: f32 (n_items, width)

        for i in items:
            for chunk of table[rows[i]]:  out[i][chunk] = floats(chunk)
    """

    type: WeightType

    parameters = {"table": pointer, "rows": pointer, "out": pointer, "width": i64}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        for item in k.items():
            row = a["rows"].load(i32, item * 4).to(i64)
            packed = a["table"].at(row * row_stride(self.type, a["width"]))
            for size, column, chunk in chunks(k, self.type, packed, a["width"]):
                at = (item * a["width"] + column) * 4
                start = 0
                for floats in self.type.floats(k, chunk, size):
                    a["out"].store(floats, at + start)
                    start += floats.type.bytes

    def reference(self, **a: Any) -> None:
        a["out"][...] = self.type.dequantize(a["table"][a["rows"]].view(np.uint8))


@dataclass(frozen=True)
class PickColumns(Op):
    """out[row] = x[row][start : start + width], a part of every row; an item is a row.

    x: f32 (n_rows, stride); out: f32 (n_rows, width); a token may have several rows.
    """

    parameters = {
        "x": pointer,
        "out": pointer,
        "start": i64,
        "width": i64,
        "stride": i64,
        "n_parts": i64,
    }

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_parts"], 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        for row in k.items("row"):
            x = a["x"].at((row * a["stride"] + a["start"]) * 4)
            for lanes, i in k.strips(a["width"], (k.isa.lanes, 1)):
                a["out"].store(x.load(f32[lanes], i * 4), (row * a["width"] + i) * 4)

    def reference(self, **a: Any) -> None:
        part = slice(a["start"], a["start"] + a["width"])
        a["out"][...] = a["x"].reshape(-1, a["stride"])[:, part].reshape(a["out"].shape)


@dataclass(frozen=True)
class JoinColumns(Op):
    """out[row] = x[row], y[row]; an item is a row, of which a token may have several.

    x: f32 (n_rows, n_x); y: f32 (n_rows, n_y); out: f32 (n_rows, n_x + n_y)
    """

    parameters = {
        "x": pointer,
        "y": pointer,
        "out": pointer,
        "n_x": i64,
        "n_y": i64,
        "n_parts": i64,
    }

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_parts"], 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        for row in k.items("row"):
            out = a["out"].at(row * (a["n_x"] + a["n_y"]) * 4)
            for name, width, start in (("x", a["n_x"], 0), ("y", a["n_y"], a["n_x"] * 4)):
                part = a[name].at(row * width * 4)
                for lanes, i in k.strips(width, (k.isa.lanes, 1)):
                    out.at(start).store(part.load(f32[lanes], i * 4), i * 4)

    def reference(self, **a: Any) -> None:
        parts = [a[name].reshape(-1, a[f"n_{name}"]) for name in ("x", "y")]
        a["out"][...] = np.concatenate(parts, axis=1).reshape(a["out"].shape)
