"""NVFP4: 64 weights of four bits (e2m1); every 16 have a scale of eight bits (ue4m3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet.kernels.ir import Value, f16, f32, u8, u16, u32
from linnet.kernels.quants.base import Factors, Floats, QuantType, Records, Unpacked, nibbles_of
from linnet.kernels.quants.blocks import Blocks, shifted
from linnet.kernels.quants.mxfp4 import LEVELS

BYTES_TWICE = [8 * (lane // 16) + lane % 8 for lane in range(64)]  # every eight, and again


class NVFP4(QuantType):
    """64 weights in 36 bytes; w = d / 2 * LEVELS[q] (ggml block_nvfp4).

    d has four bits of exponent and three of fraction, as e4m3 without a sign: m * 2^-9 for e = 0,
    else (1 + m / 8) * 2^(e - 7); 0x7F, which is NaN in e4m3, stands for 0, and bit 7 for nothing.
    The 16 weights of a group are the low halves, then the high ones, of eight bytes of qs. What
    files scale a whole tensor by is a tensor of its own.
    """

    name, id, block, group = "NVFP4", 40, 64, 16
    fields = {"d": ("u1", 4), "qs": ("u1", 32)}
    largest, zero, signs = 24, 12, True

    def unpack(self, b: Blocks) -> Unpacked:
        k, packed = b.k, [b.bytes("qs", block=i).shuffle(BYTES_TWICE) for i in range(b.n_blocks)]
        d = k.concat([b.bytes("d", block=i) for i in range(b.n_blocks)])
        lanes = [self.levels(LEVELS, shifted(q, [0, 4] * 4) & 15) for q in packed]
        return Unpacked(lanes, scales(d))

    def runs(self, b: Blocks) -> list[Value]:
        """Of the 16 bytes of 32 weights, eight hold runs 0 and 1, the others runs 2 and 3."""
        starts = [9 * block + 1 + at for block in range(4) for at in (0, 4)]
        early, late = (
            b.picked(u32, [start + i for start in starts for i in (half, half + 1)]).bits(u8[64])
            for half in (0, 2)
        )
        nibbles = (early & 15, early >> 4, late & 15, late >> 4)
        return [self.levels(LEVELS, q) for q in nibbles]

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        d = self.in_fold_order([row.picked(u32, range(0, 36, 9)).bits(u8[16]) for row in rows])
        return [(scales(each), None) for each in d]

    def decode(self, blocks: Records) -> Floats:
        d = np.where(blocks["d"] == 0x7F, 0, blocks["d"] & 0x7F)
        exponents, fractions = d // 8, d % 8
        fractions = fractions + np.where(exponents > 0, 8, 0).astype(np.float32)
        scales = np.ldexp(fractions, np.maximum(exponents, 1).astype(np.int32) - 11)
        levels = np.array(LEVELS, np.float32)[nibbles_of(blocks["qs"].reshape(-1, 4, 8))]
        weights: Floats = (scales[..., None] * levels).reshape(-1, 64)
        return weights


def scales(d: Value) -> Value:
    """u8[n] -> half of what they stand for: f32[n].

    Exponent and fraction are shifted to where F16 has them, whose bias is higher by 8: that is
    2^-8 of the number, of subnormal ones too.
    """
    number = d.equals(0x7F).select(d.k.constant(d.type, 0), d & 0x7F).to(u16)
    return (number << 7).bits(f16[d.type.lanes]).to(f32) * 2.0**7
