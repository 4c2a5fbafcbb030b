"""Q4_0 and Q4_1: 32 weights of four bits under one scale, without and with an offset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet.kernels.ir import Value, f16, f32, u8, u32
from linnet.kernels.quants.base import Factors, Floats, QuantType, Records, Unpacked, nibbles_of
from linnet.kernels.quants.blocks import Blocks, nibble_runs_of_blocks, nibbles, split_nibbles
from linnet.kernels.quants.search import Levels, nibble_pairs, with_line, with_scale


class Q4_0(QuantType):
    """32 weights in 18 bytes; w = d * (q - 8) (ggml block_q4_0)."""

    name, id, block = "Q4_0", 2, 32
    fields = {"d": ("<f2", 1), "qs": ("u1", 16)}
    largest, zero = 15, 8

    def unpack(self, b: Blocks) -> Unpacked:
        lanes = [nibbles(b.bytes("qs", block=i)) for i in range(b.n_blocks)]
        return Unpacked(lanes, b.halves("d"))

    def runs(self, b: Blocks) -> list[Value]:
        return nibble_runs_of_blocks(b)

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        return [(self.folded_halves(rows, "d"), None)]

    def decode(self, blocks: Records) -> Floats:
        q = nibbles_of(blocks["qs"]).astype(np.float32) - 8
        return blocks["d"].astype(np.float32)[:, None] * q

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], q = with_scale(weights, importance, Levels(-8, 7))
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

    def runs(self, b: Blocks) -> list[Value]:
        first = [[5 * i + 1 + 2 * run + j for i in range(8) for j in range(2)] for run in range(2)]
        return split_nibbles([b.picked(u32, run).bits(u8[64]) for run in first])

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        return scales_and_offsets(self, [row.picked(u32, range(0, 40, 5)) for row in rows])

    def decode(self, blocks: Records) -> Floats:
        d, m = (blocks[name].astype(np.float32)[:, None] for name in ("d", "m"))
        return d * nibbles_of(blocks["qs"]).astype(np.float32) + m

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], records["m"], q = with_line(weights, importance, 15)
        records["qs"] = nibble_pairs(q[:, :16], q[:, 16:])
        return records


def scales_and_offsets(type: QuantType, headers: Sequence[Value]) -> list[Factors]:
    """What `factors` gives, of two halves d and m for each group: u32[8] for each row."""
    (both,) = type.in_fold_order(headers)
    d, m = (both.bits(f16[32]).shuffle(range(i, 32, 2)).to(f32) for i in range(2))
    return [(d, m)]
