"""Q5_0 and Q5_1: 32 weights of five bits; the fifth bits stand together in 32 bits of their own."""

from __future__ import annotations

import numpy as np

from linnet.kernels.ir import Value, u1
from linnet.kernels.quants.base import (
    Blocks,
    Bytes,
    Floats,
    QuantType,
    Records,
    Unpacked,
    nibbles,
    nibbles_of,
    with_bit,
)
from linnet.kernels.quants.search import nibble_pairs, with_line, with_scale


class Q5_0(QuantType):
    """32 weights in 22 bytes; w = d * (q - 16) (ggml block_q5_0)."""

    name, id, block = "Q5_0", 6, 32
    fields = {"d": ("<f2", 1), "qh": ("u1", 4), "qs": ("u1", 16)}
    largest, zero = 31, 16

    def unpack(self, b: Blocks) -> Unpacked:
        return Unpacked([five_bits(b, i) for i in range(b.n_blocks)], b.halves("d"))

    def decode(self, blocks: Records) -> Floats:
        d = blocks["d"].astype(np.float32)[:, None]
        return d * (five_bits_of(blocks) - 16)

    def encode(self, weights: Floats) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], q = with_scale(weights, -16, 15)
        records["qs"] = nibble_pairs(q[:, :16], q[:, 16:])
        records["qh"] = fifth_bits(q)
        return records


class Q5_1(QuantType):
    """32 weights in 24 bytes; w = d * q + m (ggml block_q5_1)."""

    name, id, block = "Q5_1", 7, 32
    fields = {"d": ("<f2", 1), "m": ("<f2", 1), "qh": ("u1", 4), "qs": ("u1", 16)}
    largest = 31

    def unpack(self, b: Blocks) -> Unpacked:
        lanes = [five_bits(b, i) for i in range(b.n_blocks)]
        return Unpacked(lanes, b.halves("d"), b.halves("m"))

    def decode(self, blocks: Records) -> Floats:
        d, m = (blocks[name].astype(np.float32)[:, None] for name in ("d", "m"))
        return d * five_bits_of(blocks) + m

    def encode(self, weights: Floats) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], records["m"], q = with_line(weights, 31)
        records["qs"] = nibble_pairs(q[:, :16], q[:, 16:])
        records["qh"] = fifth_bits(q)
        return records


def five_bits(b: Blocks, block: int) -> Value:
    """u8[32]: nibbles, and 16 more where the lane's bit of qh is set."""
    is_set = b.bytes("qh", block=block).bits(u1[32])
    return with_bit(nibbles(b.bytes("qs", block=block)), is_set, 16)


def five_bits_of(blocks: Records) -> Floats:
    """(n, 32) numbers 0..31 from `qs` and `qh`."""
    fifth = np.unpackbits(blocks["qh"], axis=-1, bitorder="little") << 4
    return (nibbles_of(blocks["qs"]) | fifth).astype(np.float32)


def fifth_bits(q: Bytes) -> Bytes:
    """(n, 32) numbers 0..31 -> `qh` (n, 4)."""
    return np.packbits(q // 16, axis=-1, bitorder="little")
