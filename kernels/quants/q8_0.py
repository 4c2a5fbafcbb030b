"""Q8_0: 32 signed bytes under one scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet.kernels.quants.base import Factors, Floats, QuantType, Records, Unpacked
from linnet.kernels.quants.blocks import Blocks
from linnet.kernels.quants.search import Levels, with_scale


class Q8_0(QuantType):
    """32 weights in 34 bytes; w = d * q (ggml block_q8_0). Lanes hold q + 128, or q."""

    name, id, block = "Q8_0", 8, 32
    fields = {"d": ("<f2", 1), "qs": ("u1", 32)}
    largest, zero, signs = 255, 128, True

    def unpack(self, b: Blocks) -> Unpacked:
        lanes = [b.bytes("qs", block=i) ^ self.zero for i in range(b.n_blocks)]
        return Unpacked(lanes, b.halves("d"))

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        return [(self.folded_halves(rows, "d"), None)]

    def decode(self, blocks: Records) -> Floats:
        d = blocks["d"].astype(np.float32)[:, None]
        return blocks["qs"].view(np.int8).astype(np.float32) * d

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], q = with_scale(weights, importance, Levels(-128, 127))
        records["qs"] = q ^ np.uint8(128)
        return records
