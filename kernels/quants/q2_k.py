"""Q2_K: 256 weights of two bits; every 16 have a scale and a minimum of four bits."""

from __future__ import annotations

import numpy as np

from linnet.kernels.ir import f32
from linnet.kernels.quants.base import Blocks, Floats, QuantType, Records, Unpacked, shifted

PAIRS_OF_BITS = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)


class Q2_K(QuantType):
    """256 weights in 84 bytes; w = d * scale * q - dmin * minimum (ggml block_q2_K).

    Each half of the block is four runs of 32: pairs of bits of the same 32 bytes.
    """

    name, id, block, group = "Q2_K", 10, 256, 16
    fields = {"scales": ("u1", 16), "qs": ("u1", 64), "d": ("<f2", 1), "dmin": ("<f2", 1)}
    largest = 3

    def unpack(self, b: Blocks) -> Unpacked:
        halves = [b.bytes("qs", 32 * half, 32).repeat(2) for half in range(2)]
        lanes = [shifted(q, bits) & 3 for q in halves for bits in ([0, 2], [4, 6])]
        packed = b.bytes("scales")
        scales = (packed & 15).to(f32) * b.halves("d")[0]
        return Unpacked(lanes, scales, (packed >> 4).to(f32) * -b.halves("dmin")[0])

    def decode(self, blocks: Records) -> Floats:
        q = blocks["qs"].reshape(-1, 2, 1, 32) >> PAIRS_OF_BITS & 3
        d, dmin = (blocks[name].astype(np.float32)[:, None] for name in ("d", "dmin"))
        scales = d * (blocks["scales"] & 15).astype(np.float32)
        minimums = dmin * (blocks["scales"] >> 4).astype(np.float32)
        weights = scales[..., None] * q.reshape(-1, 16, 16).astype(np.float32)
        floats: Floats = (weights - minimums[..., None]).reshape(-1, 256)
        return floats
