"""Q5_K: Q4_K with a fifth bit for every weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet.kernels.ir import Value
from linnet.kernels.quants.base import Factors, Floats, QuantType, Records, Unpacked
from linnet.kernels.quants.blocks import Blocks, eights, rotated_eights, shifted_eights, with_bits
from linnet.kernels.quants.q4_k import (
    NIBBLE_SHIFTS,
    PAIRS_APART,
    factors_of_two,
    nibbles_by_pair,
    pairs,
    scales_and_minimums_of,
    scales_and_offsets,
    with_levels,
)

BIT_OF_GROUP = 1 << np.arange(8, dtype=np.uint8).reshape(8, 1)


class Q5_K(QuantType):
    """256 weights in 176 bytes; w = d * scale * q - dmin * minimum (ggml block_q5_K).

    Bit g of byte j of qh is the fifth bit of weight j of group g.
    """

    name, id, block = "Q5_K", 13, 256
    fields = {
        "d": ("<f2", 1),
        "dmin": ("<f2", 1),
        "scales": ("u1", 12),
        "qh": ("u1", 32),
        "qs": ("u1", 128),
    }
    largest = 31
    order = PAIRS_APART

    def unpack(self, b: Blocks) -> Unpacked:
        qh, lanes = b.bytes("qh").repeat(2), []
        for half in range(2):
            q = b.bytes("qs", 64 * half, 64)
            for i, four_bits in enumerate((q & 15, q >> 4)):
                groups = self.order[4 * half + 2 * i :][:2]
                lanes.append(with_bits(four_bits, qh, groups, 4))
        return Unpacked(lanes, *scales_and_offsets(b))

    def runs(self, b: Blocks) -> list[Value]:
        halves, lanes = [b.bytes("qs", 64 * half, 64) for half in range(2)], []
        for run in range(4):
            four = shifted_eights(eights(pairs(run), *halves), [0, 4] * 4) & 15
            fifth = rotated_eights(b.bytes("qh", 8 * run, 8).repeat(8), range(4, -4, -1)) & 16
            lanes.append(four | fifth)
        return lanes

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        return [factors_of_two(*rows)]

    def decode(self, blocks: Records) -> Floats:
        qs = blocks["qs"].reshape(-1, 4, 1, 32) >> NIBBLE_SHIFTS & 15
        groups = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
        fifth = (blocks["qh"].reshape(-1, 1, 32) >> groups & 1) << 4
        q = (qs.reshape(-1, 8, 32) | fifth).astype(np.float32)
        scales, minimums = scales_and_minimums_of(blocks)
        floats: Floats = (scales[..., None] * q - minimums[..., None]).reshape(-1, 256)
        return floats

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        records, q = with_levels(self, weights, importance)
        records["qs"] = nibbles_by_pair(q)
        records["qh"] = (q // 16 * BIT_OF_GROUP).sum(axis=1, dtype=np.uint8)
        return records
