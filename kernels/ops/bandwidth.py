"""How fast this machine can read: the roofline that decoding is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Pointer, u64
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import ALL_ROWS, Array, Int, Op, OpKernel

BLOCK = 64 * 1024  # bytes in an item


@dataclass(frozen=True)
class ReadBytes(Op):
    """Read data (n_bytes,) and do nothing else; an item is a block of 64 KiB.

    for block in items:  out[block] = sum of its 64-bit words (whole cache lines only)
    """

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return -(-sizes["n_bytes"] // BLOCK), ALL_ROWS

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return isa.tuning.items_of(BLOCK)

    def emit(self, k: OpKernel, data: Pointer, out: Pointer, n_bytes: Int) -> None:
        lanes = k.isa.bits // 64
        for block in k.items("block"):
            start = block * BLOCK
            n_lines = k.minimum(n_bytes - start, BLOCK) >> 6
            total = k.cell(u64[lanes], "total")
            for line in k.range(n_lines, name="line"):
                for part in range(64 // (8 * lanes)):
                    words = data.load(u64[lanes], start + line * 64 + part * 8 * lanes)
                    total.set(total.get() + words)
            out.store(total.get().sum(), block * 8)

    def reference(self, data: Array, out: Array, n_bytes: int) -> None:
        for i, block in enumerate(np.array_split(data, range(BLOCK, n_bytes, BLOCK))):
            out[i] = block[: block.size // 64 * 64].view(np.uint64).sum()
