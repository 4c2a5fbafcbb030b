"""Q8_0: 32 signed bytes under one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.quants.base import Blocks, Bytes, Floats, QuantType, Unpacked
from linnet.kernels.quants.search import (
    Records,
    blocks_of,
    by_blocks,
    columns,
    extreme,
    nearest,
    to_half,
)


class Q8_0(QuantType):
    """32 weights in 34 bytes; w = d * q (ggml block_q8_0). Lanes hold q + 128."""

    name, id, block = "Q8_0", 8, 32
    fields = {"d": ("<f2", 1), "qs": ("u1", 32)}
    largest, zero = 255, 128

    def unpack(self, b: Blocks) -> Unpacked:
        return Unpacked([b.bytes("qs", block=i) ^ 128 for i in range(b.n_blocks)], b.halves("d"))

    def decode(self, blocks: npt.NDArray[Any]) -> Floats:
        d = blocks["d"].astype(np.float32)[:, None]
        return blocks["qs"].view(np.int8).astype(np.float32) * d

    def quantize(self, rows: Floats) -> Bytes:
        return by_blocks(self, rows, self.encode)

    def encode(self, weights: Floats) -> Records:
        """The weight of largest size becomes -128; 256 levels need no search."""
        records = np.empty(len(weights), self.dtype)
        w = columns(weights, 32)
        d = to_half(extreme(w) / np.float32(-128))
        records["d"] = d[0]
        records["qs"] = blocks_of(nearest(w, d, 0, -128, 127) + 128)[:, 0] ^ 128
        return records
