"""Q5_0 and Q5_1: 32 weights of five bits; the fifth bits stand together in 32 bits of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet.kernels.ir import Value, f16, f32, u8, u32, u64
from linnet.kernels.quants.base import (
    Bytes,
    Factors,
    Floats,
    QuantType,
    Records,
    Unpacked,
    nibbles_of,
)
from linnet.kernels.quants.blocks import (
    Blocks,
    nibble_runs_of_blocks,
    nibbles,
    split_nibbles,
    with_bit,
)
from linnet.kernels.quants.q4_0 import scales_and_offsets
from linnet.kernels.quants.search import Levels, nibble_pairs, with_line, with_scale


class Q5_0(QuantType):
    """32 weights in 22 bytes; w = d * (q - 16) (ggml block_q5_0)."""

    name, id, block = "Q5_0", 6, 32
    fields = {"d": ("<f2", 1), "qh": ("u1", 4), "qs": ("u1", 16)}
    largest, zero = 31, 16

    def unpack(self, b: Blocks) -> Unpacked:
        return Unpacked([five_bits(b, i) for i in range(b.n_blocks)], b.halves("d"))

    def runs(self, b: Blocks) -> list[Value]:
        return with_fifth_bits(nibble_runs_of_blocks(b), b.heads(), at=2)

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        (d,) = self.in_fold_order(
            [row.heads().bits(f16[32]).shuffle(range(0, 32, 4)) for row in rows]
        )
        return [(d.to(f32), None)]

    def decode(self, blocks: Records) -> Floats:
        d = blocks["d"].astype(np.float32)[:, None]
        return d * (five_bits_of(blocks) - 16)

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], q = with_scale(weights, importance, Levels(-16, 15))
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

    def runs(self, b: Blocks) -> list[Value]:
        first = [b.picked(u64, range(1 + run, 24, 3)).bits(u8[64]) for run in range(2)]
        return with_fifth_bits(split_nibbles(first), b.picked(u64, range(0, 24, 3)), at=4)

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        return scales_and_offsets(self, [row.picked(u32, range(0, 48, 6)) for row in rows])

    def decode(self, blocks: Records) -> Floats:
        d, m = (blocks[name].astype(np.float32)[:, None] for name in ("d", "m"))
        return d * five_bits_of(blocks) + m

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], records["m"], q = with_line(weights, importance, 31)
        records["qs"] = nibble_pairs(q[:, :16], q[:, 16:])
        records["qh"] = fifth_bits(q)
        return records


def five_bits(b: Blocks, block: int) -> Value:
    """u8[32]: nibbles, and 16 more where the lane's bit of qh is set."""
    is_set = b.k.isa.set_bits(b.bytes("qh", block=block))
    return with_bit(nibbles(b.bytes("qs", block=block)), is_set, 16)


def with_fifth_bits(runs: Sequence[Value], heads: Value, *, at: int) -> list[Value]:
    """Runs u8[64] of nibbles, with what `qh` adds, which is in heads u64[8] from that byte on.

    A run of a group takes a byte of qh, which is spread over its eight lanes.
    """
    bits = heads.k.constant(u8[64], [1 << i for i in range(8)] * 8)
    spread = [[8 * i + at + run for i in range(8) for _ in range(8)] for run in range(4)]
    return [
        with_bit(lanes, heads.bits(u8[64]).shuffle(bytes) & bits > 0, 16)
        for lanes, bytes in zip(runs, spread, strict=True)
    ]


def five_bits_of(blocks: Records) -> Floats:
    """(n, 32) numbers 0..31 from `qs` and `qh`."""
    fifth = np.unpackbits(blocks["qh"], axis=-1, bitorder="little") << 4
    return (nibbles_of(blocks["qs"]) | fifth).astype(np.float32)


def fifth_bits(q: Bytes) -> Bytes:
    """(n, 32) numbers 0..31 -> `qh` (n, 4)."""
    return np.packbits(q // 16, axis=-1, bitorder="little")
