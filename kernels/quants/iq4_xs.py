"""IQ4_XS: 256 weights with the levels of IQ4_NL; every 32 have a scale of six bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet.kernels.ir import Value, f16, f32, i16, i32, u16
from linnet.kernels.quants.base import Factors, Floats, QuantType, Records, Unpacked, nibbles_of
from linnet.kernels.quants.blocks import Blocks, nibble_runs, nibbles
from linnet.kernels.quants.iq4_nl import LARGEST, LEVELS, UNEVEN, ZERO
from linnet.kernels.quants.search import nibble_pairs, with_scales

TOP_SHIFTS = np.array([0, 2, 4, 6], np.uint8)


class IQ4_XS(QuantType):
    """256 weights in 136 bytes; w = d * (scale - 32) * LEVELS[q] (ggml block_iq4_xs)."""

    name, id, block = "IQ4_XS", 23, 256
    fields = {"d": ("<f2", 1), "scales_h": ("u1", 2), "scales_l": ("u1", 4), "qs": ("u1", 128)}
    largest, zero, signs = LARGEST, ZERO, True

    def unpack(self, b: Blocks) -> Unpacked:
        k = b.k
        lanes = [self.levels(LEVELS, nibbles(b.bytes("qs", i, 16))) for i in range(0, 128, 16)]
        low = b.bytes("scales_l").repeat_lanes(2)
        low = (low >> k.constant(low.type, [0, 4] * 4)) & 15
        high = b.bytes("scales_h").repeat_lanes(4)
        high = (high >> k.constant(high.type, [0, 2, 4, 6] * 2)) & 3
        scales = (low | (high << 4)).to(f32) - 32
        return Unpacked(lanes, scales * b.halves("d")[0])

    def runs(self, b: Blocks) -> list[Value]:
        packed = nibble_runs(*(b.bytes("qs", 64 * half, 64) for half in range(2)))
        return [self.levels(LEVELS, q) for q in packed]

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        """The headers of both rows side by side: d, scales_h, scales_l, eight bytes each."""
        k, headers = rows[0].k, rows[0].k.concat([row.header(8) for row in rows])
        # Of groups 2i and 2i + 1 of the one row, then of the other.
        groups = [2 * i + j for i in range(4) for j in (0, 1, 0, 1)]
        low = headers.shuffle([4 + i + j for i in range(4) for j in (0, 0, 8, 8)]).to(u16)
        low = (low >> k.constant(low.type, [0, 4] * 8)) & 15
        high = headers.bits(u16[8]).shuffle([1, 1, 5, 5] * 4)
        high = (high >> k.constant(high.type, [2 * group for group in groups])) & 3
        scales = (low | (high << 4)).bits(i16[16]) - 32
        d = k.concat([headers[:2], headers[8:10]]).bits(f16[2]).to(f32)
        return [(scales.to(i32).to(f32) * d.shuffle([0, 0, 1, 1] * 4), None)]

    def decode(self, blocks: Records) -> Floats:
        low = blocks["scales_l"][..., None] >> np.array([0, 4], np.uint8) & 15
        high = blocks["scales_h"][..., None] >> TOP_SHIFTS & 3
        scales = (low.reshape(-1, 8) | high.reshape(-1, 8) << 4).astype(np.float32) - 32
        scales = blocks["d"].astype(np.float32)[:, None] * scales
        levels = np.array(LEVELS, np.float32)[nibbles_of(blocks["qs"].reshape(-1, 8, 16))]
        weights: Floats = (scales[..., None] * levels).reshape(-1, 256)
        return weights

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], scales, levels = with_scales(weights, importance, 32, UNEVEN, 32)
        numbers = (scales + 32).astype(np.uint8)
        records["scales_l"] = nibble_pairs(numbers[:, ::2], numbers[:, 1::2])
        top = numbers.reshape(-1, 2, 4) >> 4 << TOP_SHIFTS
        records["scales_h"] = np.bitwise_or.reduce(top, axis=2)
        q = UNEVEN.numbers(levels)
        records["qs"] = nibble_pairs(q[..., :16], q[..., 16:]).reshape(-1, 128)
        return records
