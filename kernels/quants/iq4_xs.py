"""IQ4_XS: 256 weights with the levels of IQ4_NL; every 32 have a scale of six bits."""

from __future__ import annotations

import numpy as np

from linnet.kernels.ir import f32
from linnet.kernels.quants.base import (
    Blocks,
    Floats,
    QuantType,
    Records,
    Unpacked,
    nibbles,
    nibbles_of,
)
from linnet.kernels.quants.iq4_nl import LANES, LEVELS, ZERO


class IQ4_XS(QuantType):
    """256 weights in 136 bytes; w = d * (scale - 32) * LEVELS[q] (ggml block_iq4_xs)."""

    name, id, block = "IQ4_XS", 23, 256
    fields = {"d": ("<f2", 1), "scales_h": ("u1", 2), "scales_l": ("u1", 4), "qs": ("u1", 128)}
    largest, zero = max(LANES), ZERO

    def unpack(self, b: Blocks) -> Unpacked:
        k = b.k
        lanes = [k.isa.lookup(LANES, nibbles(b.bytes("qs", i, 16))) for i in range(0, 128, 16)]
        low = b.bytes("scales_l").repeat_lanes(2)
        low = (low >> k.constant(low.type, [0, 4] * 4)) & 15
        high = b.bytes("scales_h").repeat_lanes(4)
        high = (high >> k.constant(high.type, [0, 2, 4, 6] * 2)) & 3
        scales = (low | (high << 4)).to(f32) - 32
        return Unpacked(lanes, scales * b.halves("d")[0])

    def decode(self, blocks: Records) -> Floats:
        low = blocks["scales_l"][..., None] >> np.array([0, 4], np.uint8) & 15
        high = blocks["scales_h"][..., None] >> np.array([0, 2, 4, 6], np.uint8) & 3
        scales = (low.reshape(-1, 8) | high.reshape(-1, 8) << 4).astype(np.float32) - 32
        scales = blocks["d"].astype(np.float32)[:, None] * scales
        levels = np.array(LEVELS, np.float32)[nibbles_of(blocks["qs"].reshape(-1, 8, 16))]
        weights: Floats = (scales[..., None] * levels).reshape(-1, 256)
        return weights
