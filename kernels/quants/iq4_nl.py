"""IQ4_NL: 32 weights of four bits under one scale, which stand for sixteen uneven levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet.kernels.ir import Value
from linnet.kernels.quants.base import Factors, Floats, QuantType, Records, Unpacked, nibbles_of
from linnet.kernels.quants.blocks import Blocks, nibble_runs_of_blocks, nibbles
from linnet.kernels.quants.search import UnevenLevels, nibble_pairs, with_scale

LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # ggml's
ZERO = 127  # the lane of level 0, were there one
LARGEST = max(LEVELS) + ZERO
UNEVEN = UnevenLevels(LEVELS)


class IQ4_NL(QuantType):
    """32 weights in 18 bytes; w = d * LEVELS[q] (ggml block_iq4_nl)."""

    name, id, block = "IQ4_NL", 20, 32
    fields = {"d": ("<f2", 1), "qs": ("u1", 16)}
    largest, zero, signs = LARGEST, ZERO, True

    def unpack(self, b: Blocks) -> Unpacked:
        packed = [b.bytes("qs", block=i) for i in range(b.n_blocks)]
        return Unpacked([self.levels(LEVELS, nibbles(q)) for q in packed], b.halves("d"))

    def runs(self, b: Blocks) -> list[Value]:
        return [self.levels(LEVELS, q) for q in nibble_runs_of_blocks(b)]

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        return [(self.folded_halves(rows, "d"), None)]

    def decode(self, blocks: Records) -> Floats:
        levels = np.array(LEVELS, np.float32)[nibbles_of(blocks["qs"])]
        weights: Floats = blocks["d"].astype(np.float32)[:, None] * levels
        return weights

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], levels = with_scale(weights, importance, UNEVEN)
        q = UNEVEN.numbers(levels)
        records["qs"] = nibble_pairs(q[:, :16], q[:, 16:])
        return records
