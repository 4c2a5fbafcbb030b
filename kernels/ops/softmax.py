"""What the softmax of long rows is made of, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from linnet.kernels.ir import f32
from linnet.kernels.ir.functions import exp_or_zero
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Array, Float32s, Int, Op, OpKernel

BLOCK: Final = 256  # columns


@dataclass(frozen=True)
class SoftmaxBlocks(Op):
    """The maximum of every 256 columns, and the sum of exponentials below it: of these few, softmax
    and log-sum-exp of the row follow (Milakov and Gimelshein 2018, arXiv:1805.02867).

    x: f32 (n_rows, width); maxima, sums: f32 (n_rows, n_blocks); an item is a block.

        for row, block in items:
            maxima[row][block] = max(x[row][block])
            sums[row][block] = sum of exp(x[row][block] - maxima[row][block])

    A sum is NaN where a number of its block is NaN or infinite; the maximum says nothing then.
    """

    writes = frozenset({"maxima", "sums"})

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return -(-sizes["width"] // BLOCK), 1

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 16, 16

    def emit(self, k: OpKernel, x: Float32s, maxima: Float32s, sums: Float32s, width: Int) -> None:
        sizes = k.isa.lanes, 1
        n_blocks = (width + (BLOCK - 1)) // BLOCK
        for item in k.items("block"):
            first = item % n_blocks * BLOCK
            block = x.at(item // n_blocks * width + first)
            n = k.minimum(width - first, BLOCK)
            highest = {size: k.cell(k.constant(f32[size], -np.inf), "highest") for size in sizes}
            totals = {size: k.cell(f32[size], "total") for size in sizes}
            for size, i in k.strips(n, sizes):
                highest[size].set(k.maximum(highest[size].get(), block.load(i, size)))
            maximum = k.maximum(*(cell.get().max() for cell in highest.values()))
            for size, i in k.strips(n, sizes):
                strip, total = block.load(i, size), totals[size]
                # Of what is not finite, the difference to itself is NaN.
                total.set(total.get() + exp_or_zero(k, strip - maximum) + (strip - strip))
            maxima.store(maximum, item)
            wide, single = (cell.get().sum() for cell in totals.values())
            sums.store(wide + single, item)

    def reference(self, x: Array, maxima: Array, sums: Array, width: int) -> None:
        firsts = np.arange(0, width, BLOCK)
        rows = x.reshape(-1, width).astype(np.float64)
        with np.errstate(invalid="ignore"):
            maxima[...] = np.maximum.reduceat(rows, firsts, axis=1).reshape(maxima.shape)
            highest = np.repeat(maxima.reshape(len(rows), -1), BLOCK, axis=1)[:, :width]
            powers = np.exp(rows - highest) + (rows - rows)
            sums[...] = np.add.reduceat(powers, firsts, axis=1).reshape(sums.shape)
