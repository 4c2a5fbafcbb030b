"""MXFP4: 32 weights of four bits (e2m1) under a power of two (OCP Microscaling Formats 1.0)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet.kernels.ir import Value, f32, i32, u32
from linnet.kernels.quants.base import (
    Bytes,
    Factors,
    Floats,
    QuantType,
    Records,
    Unpacked,
    nibbles_of,
)
from linnet.kernels.quants.blocks import Blocks, nibble_runs_of_blocks, nibbles
from linnet.kernels.quants.search import (
    UnevenLevels,
    blocks_of,
    columns,
    columns_if,
    nearest,
    nibble_pairs,
    pick,
    squared_error,
)

LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice the e2m1 numbers
UNEVEN = UnevenLevels(LEVELS)


class MXFP4(QuantType):
    """32 weights in 17 bytes; w = 2^(e - 128) * LEVELS[q] (ggml block_mxfp4)."""

    name, id, block = "MXFP4", 39, 32
    fields = {"e": ("u1", 1), "qs": ("u1", 16)}
    largest, zero, signs = 24, 12, True
    limit = 2.0**127

    def unpack(self, b: Blocks) -> Unpacked:
        packed = [b.bytes("qs", block=i) for i in range(b.n_blocks)]
        e = b.k.vector([b.bytes("e", block=i)[0] for i in range(b.n_blocks)]).to(u32)
        lanes = [self.levels(LEVELS, nibbles(q)) for q in packed]
        return Unpacked(lanes, power_of_two(e))

    def runs(self, b: Blocks) -> list[Value]:
        return [self.levels(LEVELS, q) for q in nibble_runs_of_blocks(b)]

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        """Every second block's exponent is the second byte of its word."""
        (words,) = self.in_fold_order([row.words("e") for row in rows])
        shifts = words.k.constant(u32[16], [0, 8] * 8)
        return [(power_of_two((words.to(u32) >> shifts) & 255), None)]

    def n_not_finite(self, packed: Bytes) -> int:
        """Scales are numbers always, of which the largest take weights beyond f32."""
        blocks = packed.reshape(-1).view(self.dtype)
        with np.errstate(over="ignore"):
            finite = np.isfinite(self.decode(blocks[blocks["e"] > 250])).all(axis=1)
        return int(np.count_nonzero(~finite))

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        """Under the power of two by which the largest weight is 4 to 8, of which 6 is the last
        level, or the next, where that leaves a smaller squared error."""
        w, v = columns(weights, 32), columns_if(importance, 32)
        largest = np.maximum(w.max(axis=0), -w.min(axis=0))
        e = np.where(largest > 0, np.maximum(np.frexp(largest)[1] + 124, 0), 0)
        w = np.ldexp(w, 128 - e)  # 8 to 16, as levels are twice what they stand for
        scales = [np.full_like(largest, scale) for scale in (1, 2)]
        best = np.argmin([squared_error(w, scale, 0, UNEVEN, v) for scale in scales], axis=0)
        levels = blocks_of(nearest(w, pick(best, scales), 0, UNEVEN) - UNEVEN.lowest)
        q = UNEVEN.numbers(levels[:, 0])
        records = np.empty(len(weights), self.dtype)
        records["e"] = (e + best)[0]
        records["qs"] = nibble_pairs(q[:, :16], q[:, 16:])
        return records

    def decode(self, blocks: Records) -> Floats:
        scales = np.ldexp(np.float32(1), blocks["e"].astype(np.int32) - 128)
        weights: Floats = scales[:, None] * np.array(LEVELS, np.float32)[nibbles_of(blocks["qs"])]
        return weights


def power_of_two(e: Value) -> Value:
    """2^(e - 128) of u32 lanes up to 255, as f32: below 2, bits of the fraction."""
    subnormal = ((e + 1) << 21).bits(i32[e.type.lanes])
    return e.k.maximum(subnormal, ((e - 1) << 23).bits(subnormal.type)).bits(f32[e.type.lanes])
