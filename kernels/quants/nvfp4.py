"""NVFP4: 64 weights of four bits (e2m1); every 16 have a scale of eight bits (ue4m3)."""

from __future__ import annotations

import numpy as np

from linnet.kernels.ir import f32, u32
from linnet.kernels.quants.base import (
    Blocks,
    Floats,
    QuantType,
    Records,
    Unpacked,
    nibbles_of,
    shifted,
)
from linnet.kernels.quants.mxfp4 import LANES, LEVELS

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
    largest, zero = 24, 12

    def unpack(self, b: Blocks) -> Unpacked:
        k, packed = b.k, [b.bytes("qs", block=i).shuffle(BYTES_TWICE) for i in range(b.n_blocks)]
        d = k.concat([b.bytes("d", block=i) for i in range(b.n_blocks)])
        d = d.equals(0x7F).select(k.constant(d.type, 0), d & 0x7F).to(u32)
        normal = ((d << 20) + (119 << 23)).bits(f32[d.type.lanes])
        scales = (d >= 8).select(normal, d.to(f32) * 2.0**-10)
        return Unpacked([k.isa.lookup(LANES, shifted(q, [0, 4] * 4) & 15) for q in packed], scales)

    def decode(self, blocks: Records) -> Floats:
        d = np.where(blocks["d"] == 0x7F, 0, blocks["d"] & 0x7F)
        exponents, fractions = d // 8, d % 8
        fractions = fractions + np.where(exponents > 0, 8, 0).astype(np.float32)
        scales = np.ldexp(fractions, np.maximum(exponents, 1).astype(np.int32) - 11)
        levels = np.array(LEVELS, np.float32)[nibbles_of(blocks["qs"].reshape(-1, 4, 8))]
        weights: Floats = (scales[..., None] * levels).reshape(-1, 64)
        return weights
