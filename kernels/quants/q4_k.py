"""Q4_K: 256 weights of four bits; every 32 have a scale and a minimum of six bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import Value, f32
from linnet.kernels.quants.base import Blocks, Bytes, Floats, QuantType, Unpacked


class Q4_K(QuantType):
    """256 weights in 144 bytes; w = d * scale * q - dmin * minimum (ggml block_q4_K)."""

    name, id, block = "Q4_K", 12, 256
    fields = {"d": ("<f2", 1), "dmin": ("<f2", 1), "scales": ("u1", 12), "qs": ("u1", 128)}
    largest = 15

    def unpack(self, b: Blocks) -> Unpacked:
        lanes = []
        for pair in range(4):
            q = b.bytes("qs", 32 * pair, 32)
            lanes += [q & 15, q >> 4]
        return Unpacked(lanes, *scales_and_offsets(b))

    def decode(self, blocks: npt.NDArray[Any]) -> Floats:
        qs = blocks["qs"].reshape(-1, 4, 1, 32) >> np.uint8([0, 4]).reshape(1, 1, 2, 1) & 15
        scales, minimums = scales_and_minimums_of(blocks)
        weights = scales[..., None] * qs.reshape(-1, 8, 32).astype(np.float32)
        return (weights - minimums[..., None]).reshape(-1, 256)


def scales_and_offsets(b: Blocks) -> tuple[Value, Value]:
    """f32[8] each: d * scale and -dmin * minimum of the eight groups.

    Bytes 0..3 hold scales 0..3 in six bits, bytes 4..7 minimums 0..3; bytes 8..11 hold the low
    four bits of scales and minimums 4..7, whose high two bits top the first eight bytes.
    """
    first, last = b.bytes("scales", 0, 8), b.bytes("scales", 8, 4)
    low = first & 63
    high = b.k.concat([last & 15, last >> 4]) | ((first >> 6) << 4)
    scales = b.k.concat([low[:4], high[:4]])
    minimums = b.k.concat([low[4:], high[4:]])
    return scales.to(f32) * b.halves("d")[0], minimums.to(f32) * -b.halves("dmin")[0]


def scales_and_minimums_of(blocks: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """(n, 8) each: d * scale and dmin * minimum."""
    packed: Bytes = blocks["scales"]
    first, last = packed[:, :8], packed[:, 8:]
    high = np.concatenate([last & 15, last >> 4], axis=1) | (first >> 6 << 4)
    scales = np.concatenate([first[:, :4] & 63, high[:, :4]], axis=1).astype(np.float32)
    minimums = np.concatenate([first[:, 4:] & 63, high[:, 4:]], axis=1).astype(np.float32)
    d, dmin = (blocks[name].astype(np.float32)[:, None] for name in ("d", "dmin"))
    return d * scales, dmin * minimums
