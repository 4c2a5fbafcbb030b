"""What the softmax of long rows is made of, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from linnet.kernels.ir import Pointer, Value, f32, u32
from linnet.kernels.ir.functions import exp_or_zero
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Array, Float32s, Int, Op, OpKernel

BLOCK: Final = 256  # columns
LOWEST: Final = -3.4028234663852886e38  # of finite f32 numbers


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
        n_blocks = (width + (BLOCK - 1)) // BLOCK
        for item in k.items("block"):
            first = item % n_blocks * BLOCK
            block = x.at(item // n_blocks * width + first)
            n = k.minimum(width - first, BLOCK)
            reduction = _Reduction(k)
            for size, i in k.strips(n, reduction.sizes):
                reduction.see(block.load(i, size))
            maximum = reduction.maximum()
            for size, i in k.strips(n, reduction.sizes):
                strip = block.load(i, size)
                # Of what is not finite, the difference to itself is NaN.
                reduction.add(exp_or_zero(k, strip - maximum) + (strip - strip))
            maxima.store(maximum, item)
            sums.store(reduction.total(), item)

    def reference(self, x: Array, maxima: Array, sums: Array, width: int) -> None:
        firsts = np.arange(0, width, BLOCK)
        rows = x.reshape(-1, width).astype(np.float64)
        with np.errstate(invalid="ignore"):
            maxima[...] = np.maximum.reduceat(rows, firsts, axis=1).reshape(maxima.shape)
            highest = np.repeat(maxima.reshape(len(rows), -1), BLOCK, axis=1)[:, :width]
            powers = np.exp(rows - highest) + (rows - rows)
            sums[...] = np.add.reduceat(powers, firsts, axis=1).reshape(sums.shape)


class _Reduction:
    """The maximum and the sum of a block's numbers, by strips of two sizes."""

    def __init__(self, k: OpKernel) -> None:
        self._k, self.sizes = k, (k.isa.lanes, 1)
        self._highest = {n: k.cell(k.constant(f32[n], -np.inf), "highest") for n in self.sizes}
        self._totals = {n: k.cell(f32[n], "total") for n in self.sizes}

    def see(self, strip: Value) -> None:
        highest = self._highest[strip.type.lanes or 1]
        highest.set(self._k.maximum(highest.get(), strip))

    def maximum(self) -> Value:
        """Of the strips that were seen."""
        return self._k.maximum(*(cell.get().max() for cell in self._highest.values()))

    def add(self, strip: Value) -> None:
        total = self._totals[strip.type.lanes or 1]
        total.set(total.get() + strip)

    def total(self) -> Value:
        """Of the strips that were added."""
        wide, single = (cell.get().sum() for cell in self._totals.values())
        return wide + single


@dataclass(frozen=True)
class MaskBlocks(SoftmaxBlocks):
    """A row with -inf where a bit is not set, and the blocks of what is left: see `SoftmaxBlocks`.

    x, out: f32 (n_rows, width), x finite; mask: u32 (n_rows, width / 32 rounded up), bit i % 32 of
    word i / 32 for column i; maxima, sums: f32 (n_rows, n_blocks); an item is a block.

        for row, block in items:
            out[row][block] = x where its bit is set, else -inf
            maxima[row][block] = max(out[row][block])
            sums[row][block] = sum of exp(out[row][block] - maxima[row][block]), or 0 if none is set
    """

    writes = frozenset({"out", "maxima", "sums"})

    def emit(  # type: ignore[override]
        self, k: OpKernel, x: Float32s, mask: Pointer, out: Float32s, maxima: Float32s,
        sums: Float32s, width: Int,
    ) -> None:  # fmt: skip
        n_blocks, n_words = (width + (BLOCK - 1)) // BLOCK, (width + 31) // 32
        for item in k.items("block"):
            row, first = item // n_blocks, item % n_blocks * BLOCK
            source, target = (rows.at(row * width + first) for rows in (x, out))
            words = mask.at((row * n_words + first // 32) * 4)
            n = k.minimum(width - first, BLOCK)
            reduction = _Reduction(k)
            for size, i in k.strips(n, reduction.sizes):
                bits = words.load(u32, i // 32 * 4) >> (i % 32).to(u32)
                if size > 1:
                    bits = bits.splat(size) >> k.constant(u32[size], range(size))
                strip = (bits & 1).equals(1).select(source.load(i, size), -np.inf)
                target.store(strip, i)
                reduction.see(strip)
            maximum = reduction.maximum()
            base = k.maximum(maximum, LOWEST)
            for size, i in k.strips(n, reduction.sizes):
                reduction.add(exp_or_zero(k, target.load(i, size) - base))
            maxima.store(maximum, item)
            sums.store(reduction.total(), item)

    def reference(  # type: ignore[override]
        self, x: Array, mask: Array, out: Array, maxima: Array, sums: Array, width: int
    ) -> None:
        bits = np.unpackbits(mask.view(np.uint8), axis=-1, bitorder="little")
        is_set = bits.reshape(len(mask), -1)[:, :width].astype(bool)
        out[...] = np.where(is_set, x, -np.inf)
        firsts = np.arange(0, width, BLOCK)
        maxima[...] = np.maximum.reduceat(out, firsts, axis=1).reshape(maxima.shape)
        highest = np.repeat(np.maximum(maxima, LOWEST).reshape(len(x), -1), BLOCK, axis=1)
        powers = np.exp(out.astype(np.float64) - highest[:, :width])
        sums[...] = np.add.reduceat(powers, firsts, axis=1).reshape(sums.shape)
