"""Q3_K: 256 weights of three bits; every 16 have a scale of six bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet.kernels.ir import Value, f16, f32, i8, i16
from linnet.kernels.quants.base import Factors, Floats, QuantType, Records, Unpacked, nibbles_of
from linnet.kernels.quants.blocks import (
    Blocks,
    eights,
    nibbles,
    rotated_eights,
    shifted,
    shifted_eights,
)
from linnet.kernels.quants.q2_k import PAIRS_OF_BITS, four_runs
from linnet.kernels.quants.search import Levels, nibble_pairs, pairs_of_bits, with_scales

BIT_OF_RUN = np.arange(8, dtype=np.uint8).reshape(8, 1)


class Q3_K(QuantType):
    """256 weights in 110 bytes; w = d * (scale - 32) * (q - 4) (ggml block_q3_K).

    Each half of the block is four runs of 32, whose low bits are pairs of bits of the same 32
    bytes of qs. The high bits of the eight runs are the eight bits of hmask.
    """

    name, id, block, group = "Q3_K", 11, 256, 16
    fields = {"hmask": ("u1", 32), "qs": ("u1", 64), "scales": ("u1", 12), "d": ("<f2", 1)}
    largest, zero = 7, 4
    folded = 252, 124

    def unpack(self, b: Blocks) -> Unpacked:
        high, lanes = b.bytes("hmask").repeat(2), []
        for run in range(0, 8, 2):
            low = b.bytes("qs", 32 * (run // 4), 32).repeat(2)
            bits = 2 * (run % 4)
            top = (shifted(high, [run, run + 1]) & 1) << 2
            lanes.append((shifted(low, [bits, bits + 2]) & 3) | top)
        top = (shifted(b.bytes("scales", 8, 4).repeat(4), [0, 2, 4, 6]) & 3) << 4
        multipliers = (nibbles(b.bytes("scales", 0, 8)) | top).to(i16) - 32
        unit = b.halves("d")[0]
        return Unpacked(lanes, multipliers.to(f32) * unit, None, multipliers, unit)

    def runs(self, b: Blocks) -> list[Value]:
        q, lanes = b.bytes("qs"), []
        for run in range(4):
            low = shifted_eights(eights(four_runs(run), q), [0, 2, 4, 6] * 2) & 3
            high = rotated_eights(b.bytes("hmask", 8 * run, 8).repeat(8), range(2, -6, -1)) & 4
            lanes.append(low | high)
        return lanes

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        k, n = rows[0].k, len(rows)
        d = k.concat([row.footer(4) for row in rows]).bits(f16[2 * n]).to(f32)
        low = k.concat([row.bytes("scales", 0, 8).repeat(2) for row in rows])
        low = shifted(low, [0, 4] * n) & 15
        top = k.concat([row.bytes("scales", 8, 4).repeat(4) for row in rows])
        scales = (low | ((shifted(top, [0, 2, 4, 6] * n) & 3) << 4)).bits(i8[16 * n]) - 32
        each = self.in_fold_order([scales[16 * i : 16 * (i + 1)] for i in range(n)])
        return [(numbers.to(f32) * d[2 * i + 1], None) for i, numbers in enumerate(each)]

    def decode(self, blocks: Records) -> Floats:
        low = blocks["qs"].reshape(-1, 2, 1, 32) >> PAIRS_OF_BITS & 3
        high = blocks["hmask"][:, None] >> BIT_OF_RUN & 1
        q = (low.reshape(-1, 16, 16) | high.reshape(-1, 16, 16) << 2).astype(np.float32) - 4
        packed = blocks["scales"]
        top = (packed[:, None, 8:] >> PAIRS_OF_BITS[0] & 3).reshape(-1, 16)
        scales = (nibbles_of(packed[:, :8]) | top << 4).astype(np.float32) - 32
        scales = blocks["d"].astype(np.float32)[:, None] * scales
        weights: Floats = (scales[..., None] * q).reshape(-1, 256)
        return weights

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], scales, q = with_scales(weights, importance, 16, Levels(-4, 3), 32)
        numbers = (scales + 32).astype(np.uint8)
        low = nibble_pairs(numbers[:, :8], numbers[:, 8:])
        top = np.bitwise_or.reduce(numbers.reshape(-1, 4, 4) >> 4 << PAIRS_OF_BITS[0], axis=1)
        records["scales"] = np.concatenate([low, top], axis=1)
        q = q.reshape(-1, 8, 32)
        records["qs"] = pairs_of_bits((q % 4).reshape(-1, 2, 4, 32))
        records["hmask"] = np.bitwise_or.reduce(q >> 2 << BIT_OF_RUN, axis=1)
        return records
