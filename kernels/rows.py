"""Rows picked by number: token embeddings, and the tokens whose logits are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import i32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.matvec import chunks, row_stride
from linnet.kernels.op import Op, OpKernel
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
