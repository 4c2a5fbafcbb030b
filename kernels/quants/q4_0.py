"""Q4_0 and Q4_1: 32 weights of four bits under one scale, without and with an offset."""

from __future__ import annotations

import numpy as np

from linnet.kernels.quants.base import (
    Blocks,
    Floats,
    QuantType,
    Records,
    Unpacked,
    nibbles,
    nibbles_of,
)
from linnet.kernels.quants.search import nibble_pairs, with_line, with_scale


class Q4_0(QuantType):
    """32 weights in 18 bytes; w = d * (q - 8) (ggml block_q4_0)."""

    name, id, block = "Q4_0", 2, 32
    fields = {"d": ("<f2", 1), "qs": ("u1", 16)}
    largest, zero = 15, 8

    def unpack(self, b: Blocks) -> Unpacked:
        lanes = [nibbles(b.bytes("qs", block=i)) for i in range(b.n_blocks)]
        return Unpacked(lanes, b.halves("d"))

    def decode(self, blocks: Records) -> Floats:
        q = nibbles_of(blocks["qs"]).astype(np.float32) - 8
        return blocks["d"].astype(np.float32)[:, None] * q

    def encode(self, weights: Floats) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], q = with_scale(weights, -8, 7)
        records["qs"] = nibble_pairs(q[:, :16], q[:, 16:])
        return records


class Q4_1(QuantType):
    """32 weights in 20 bytes; w = d * q + m (ggml block_q4_1)."""

    name, id, block = "Q4_1", 3, 32
    fields = {"d": ("<f2", 1), "m": ("<f2", 1), "qs": ("u1", 16)}
    largest = 15

    def unpack(self, b: Blocks) -> Unpacked:
        lanes = [nibbles(b.bytes("qs", block=i)) for i in range(b.n_blocks)]
        return Unpacked(lanes, b.halves("d"), b.halves("m"))

    def decode(self, blocks: Records) -> Floats:
        d, m = (blocks[name].astype(np.float32)[:, None] for name in ("d", "m"))
        return d * nibbles_of(blocks["qs"]).astype(np.float32) + m

    def encode(self, weights: Floats) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], records["m"], q = with_line(weights, 15)
        records["qs"] = nibble_pairs(q[:, :16], q[:, 16:])
        return records
